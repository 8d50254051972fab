"""Asks a server as tritonclient's documentation says, over HTTP and gRPC, and compares the answers.

clients.py REST GRPC MODEL IMAGE LEFT RIGHT, where the image is of the class RIGHT.
"""

import queue
import sys

import grpc as plain_grpc
import numpy
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

REST, GRPC, MODEL, IMAGE, LEFT, RIGHT = sys.argv[1:]


def inputs(library, binary):
    image = open(IMAGE, "rb").read()
    files = library.InferInput("image", [2], "BYTES")
    values = library.InferInput("input", [1, 3, 32, 32], "FP32")
    pixels = numpy.random.default_rng(3).standard_normal((1, 3, 32, 32)).astype(numpy.float32)
    if library is tritonclient.http:
        files.set_data_from_numpy(numpy.array([image, image], dtype=object), binary_data=True)
        values.set_data_from_numpy(pixels, binary_data=binary)
    else:
        files.set_data_from_numpy(numpy.array([image, image], dtype=object))
        values.set_data_from_numpy(pixels)
    return files, values


def metadata(client):
    found = client.get_model_metadata(MODEL)
    if isinstance(found, dict):
        return found["name"], found["versions"], [(one["name"], one["datatype"], one["shape"]) for one in found["inputs"]]
    return found.name, list(found.versions), [(one.name, one.datatype, list(one.shape)) for one in found.inputs]


def ask(library, client, binary):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.is_model_ready("nobody") is False and client.is_model_ready(MODEL, "none") is False
    about = client.get_server_metadata()
    assert (about["name"] if isinstance(about, dict) else about.name) == "trainyard"
    name, (version,), tensors = metadata(client)
    assert name == MODEL and tensors == [("image", "BYTES", [-1]), ("input", "FP32", [-1, 3, 32, 32])], tensors
    files, values = inputs(library, binary)

    whole = client.infer(MODEL, [files], model_version=version, request_id="7")
    assert list(whole.as_numpy("label")) == [RIGHT.encode()] * 2, whole.as_numpy("label")
    assert list(whole.as_numpy("class")) == [1, 1]
    probabilities = whole.as_numpy("probabilities")
    assert probabilities.shape == (2, 2) and numpy.allclose(probabilities.sum(axis=1), 1)

    wanted = library.InferRequestedOutput("probabilities", class_count=1)
    (best,) = client.infer(MODEL, [files], outputs=[wanted]).as_numpy("probabilities")[0]
    probability, index, label = best.decode().split(":")
    assert (index, label) == ("1", RIGHT) and abs(float(probability) - probabilities[0, 1]) < 1e-5, best

    for bad in ([], [files, values]):
        try:
            client.infer(MODEL, bad)
            raise AssertionError("refused is what it should be")
        except InferenceServerException as error:
            assert "give one" in error.message(), error
    try:
        client.get_model_metadata("nobody")
        raise AssertionError("there is no such model")
    except InferenceServerException as error:
        assert 'there is no model "nobody"' in error.message(), error

    plain = client.infer(MODEL, [values]).as_numpy("logits")
    return numpy.concatenate([whole.as_numpy("logits"), plain]), probabilities


def extensions(library, client):
    """Configuration, index and statistics: what both protocols say."""
    plain = {"as_json": True} if library is tritonclient.grpc else {}
    config = client.get_model_config(MODEL, **plain)
    config = config.get("config", config)
    (listed,) = client.get_model_repository_index(**plain)["models" if plain else slice(None)]
    assert (listed["name"], listed["state"]) == (MODEL, "READY"), listed
    (figures,) = client.get_inference_statistics(MODEL, listed["version"], **plain)["model_stats"]
    assert client.get_inference_statistics(**plain)["model_stats"] == [figures]
    # Two images thrice and one once, by each of those who asked.
    assert int(figures["inference_stats"]["success"]["count"]) % 3 == 0, figures
    assert int(figures["inference_count"]) == 5 * int(figures["inference_stats"]["success"]["count"]) // 3, figures
    spent = figures["inference_stats"]
    assert all(int(spent[part]["ns"]) > 0 for part in ("queue", "compute_input", "compute_infer")), spent
    shown = [(one["name"], one["data_type"], [int(extent) for extent in one["dims"]]) for one in config["input"] + config["output"]]
    return config["name"], int(config["max_batch_size"]), shown, listed["version"]


def compressed():
    """Requests that come compressed, over both protocols, mean what they mean plain."""
    answers = []
    with tritonclient.http.InferenceServerClient(REST) as client:
        files = inputs(tritonclient.http, True)[0]
        for coding in (None, "gzip", "deflate"):
            answers.append(client.infer(MODEL, [files], request_compression_algorithm=coding))
    with tritonclient.grpc.InferenceServerClient(GRPC) as client:
        files = inputs(tritonclient.grpc, True)[0]
        for coding in (None, "gzip", "deflate"):
            answers.append(client.infer(MODEL, [files], compression_algorithm=coding))
    answers = [answer.as_numpy("logits") for answer in answers]
    assert all((answer == answers[0]).all() for answer in answers)


def streamed():
    """One stream: requests are answered in their order, and one that is refused does not end it."""
    for coding in (None, "gzip"):
        answers = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(GRPC) as client:
            files, _ = inputs(tritonclient.grpc, True)
            single = client.infer(MODEL, [files]).as_numpy("logits")
            client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm=coding)
            for number, (model, tensors) in enumerate([(MODEL, [files]), ("nobody", [files]), (MODEL, []), (MODEL, [files])]):
                client.async_stream_infer(model, tensors, request_id=str(number))
            client.stop_stream()
        told = [answers.get_nowait() for _ in range(4)]
        assert answers.empty()
        for number in (0, 3):
            result, error = told[number]
            assert error is None and result.get_response().id == str(number), error
            assert (result.as_numpy("logits") == single).all()
            assert result.get_response().parameters["triton_final_response"].bool_param
        assert 'there is no model "nobody"' in told[1][1].message() and "give one" in told[2][1].message(), told


def healthy():
    with plain_grpc.insecure_channel(GRPC) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        # The field 1, of the name's length; the answer's field 1 is 1: SERVING.
        named = b"inference.GRPCInferenceService"
        return [check(b""), check(b"\x0a" + bytes([len(named)]) + named)] == [b"\x08\x01"] * 2


def main():
    answers, told = [], []
    for binary in (True, False):
        with tritonclient.http.InferenceServerClient(REST) as client:
            answers.append(ask(tritonclient.http, client, binary))
            told.append(extensions(tritonclient.http, client))
    with tritonclient.grpc.InferenceServerClient(GRPC) as client:
        answers.append(ask(tritonclient.grpc, client, True))
        told.append(extensions(tritonclient.grpc, client))
    assert told[0] == told[1] == told[2], told
    compressed()
    streamed()
    for logits, probabilities in answers[1:]:
        assert (logits == answers[0][0]).all() and (probabilities == answers[0][1]).all()
    assert healthy()
    print("the clients agree")


main()
