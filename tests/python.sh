#!/usr/bin/env bash
# Installs the Python that the parity tests and the benchmarks compare us with (PyTorch 2.11.0, torchvision 0.26.0,
# scikit-learn for the figures, TensorBoard for its event files, a public client and a fuzzer for the server) into a virtual environment in the cache. Once; 5 GB, about
# a minute; later only what is new in the list below. Says what it does on standard error and prints the path of its python
# on standard output. The trainer itself needs none of it.
set -euo pipefail

torch=2.11.0 torchvision=0.26.0
list="torch==$torch torchvision==$torchvision scikit-learn==1.9.1 tensorboard==2.21.0 numpy pillow safetensors
  tritonclient[http,grpc]==2.73.0 schemathesis==4.32.5"
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/python-torch-$torch

mkdir -p "$cache"
# Tests run in parallel: the first one installs, the others wait for it.
exec 9> "$home.lock"
flock 9
if [ ! -e "$home/complete" ]; then
  rm -rf "$home"
  python3 -m venv "$home"
fi
# The mark holds the list that was installed: what a new list adds is installed beside it.
if [ "$(cat "$home/complete" 2> /dev/null)" != "$list" ]; then
  echo "python: installing $list from PyPI into $home" >&2
  # shellcheck disable=SC2086 # a list of words
  "$home/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --only-binary=:all: $list >&2
  echo "$list" > "$home/complete"
fi
echo "$home/bin/python"
