#!/usr/bin/env bash
# Installs the Python that the parity tests and the benchmarks compare us with (PyTorch 2.11.0, torchvision 0.26.0) into
# a virtual environment in the cache. Once; 4.8 GB, about a minute. Says what it does on standard error and prints the
# path of its python on standard output. The trainer itself needs none of it.
set -euo pipefail

torch=2.11.0 torchvision=0.26.0
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/python-torch-$torch

mkdir -p "$cache"
# Tests run in parallel: the first one installs, the others wait for it.
exec 9> "$home.lock"
flock 9
if [ ! -e "$home/complete" ]; then
  echo "python: installing torch $torch and torchvision $torchvision (4.8 GB) from PyPI into $home" >&2
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --only-binary=:all: \
    "torch==$torch" "torchvision==$torchvision" numpy pillow safetensors >&2
  touch "$home/complete"
fi
echo "$home/bin/python"
