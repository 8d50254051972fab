"""Asks a server that wants a token over gRPC, with and without it.

bearer.py GRPC MODEL TOKEN
"""

import sys
import threading

import grpc
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

GRPC, MODEL, TOKEN = sys.argv[1:]

with tritonclient.grpc.InferenceServerClient(GRPC) as client:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    for headers in ({}, {"authorization": "Bearer " + TOKEN + "x"}):
        for ask in (
            lambda: client.get_model_metadata(MODEL, headers=headers),
            lambda: client.get_model_config(MODEL, headers=headers),
            lambda: client.get_inference_statistics(MODEL, headers=headers),
            lambda: client.get_model_repository_index(headers=headers),
            lambda: client.infer(MODEL, [], headers=headers),
        ):
            try:
                ask()
                raise AssertionError("let in")
            except InferenceServerException as error:
                assert error.status() == "StatusCode.UNAUTHENTICATED", error
    assert client.get_model_metadata(MODEL, headers={"authorization": "Bearer " + TOKEN}).name == MODEL

# A message is not waited for before it is known that its sender may send one.
never = threading.Event()


def message():
    never.wait()
    yield b""


with grpc.insecure_channel(GRPC) as channel:
    infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        infer(message(), timeout=60)
        raise AssertionError("let in")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    never.set()
print("only those who bear it")
