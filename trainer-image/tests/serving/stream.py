"""Keeps a stream open until the server ends it, and prints why it did.

stream.py GRPC MODEL IMAGE
"""

import queue
import sys

import numpy
import tritonclient.grpc

GRPC, MODEL, IMAGE = sys.argv[1:]

answers = queue.Queue()
with tritonclient.grpc.InferenceServerClient(GRPC) as client:
    files = tritonclient.grpc.InferInput("image", [1], "BYTES")
    files.set_data_from_numpy(numpy.array([open(IMAGE, "rb").read()], dtype=object))
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(MODEL, [files])
    assert answers.get()[1] is None
    print("open", flush=True)
    _, error = answers.get()
    print(error.status(), error.message())
