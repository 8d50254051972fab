"""A Python that has imported PyTorch once, and runs scripts of this folder in forks of itself: each start of PyTorch takes
seconds. Every line of the input is a list of command lines that are run at the same time; the answer is the list of their exit
codes. What outlasts the limit is killed."""

import json
import os
import runpy
import signal
import sys
import time
import traceback

import safetensors.torch
import torch
import torchvision

LIMIT = 600


def run(arguments):
    # The pipes are those of whoever asks for scripts to be run.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.argv = arguments
    code = 1
    try:
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(child, until):
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


for line in sys.stdin:
    children = []
    for arguments in json.loads(line):
        child = os.fork()
        if child == 0:
            run(arguments)
        children.append(child)
    until = time.monotonic() + LIMIT
    print(json.dumps([wait(child, until) for child in children]), flush=True)
