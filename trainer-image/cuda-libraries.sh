#!/usr/bin/env bash
# Fetches the libraries that libtorch's CUDA half loads, from NVIDIA's wheels on PyPI (1.9 GB of downloads, once), into a cache; the last
# line on standard output is the folder that has them all. Versions are those that torch 2.11.0 lists.
set -euo pipefail

torch=2.11.0
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/cuda-libraries-$torch

if [ ! -e "$home/complete" ]; then
  echo "cuda-libraries: fetching NVIDIA's libraries (1.9 GB) from PyPI into $home" >&2
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/cuda-libraries.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2010_x86_64 --dest "$work/wheels" \
    nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61 \
    nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35 nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0 \
    nvidia-nccl-cu13==2.28.9 nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5 >&2
  python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
(work / "home").mkdir()
for wheel in (work / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if ".so" in member.filename and not member.is_dir():
                member.filename = pathlib.PurePosixPath(member.filename).name
                archive.extract(member, work / "home")
            elif ".dist-info/" in member.filename and pathlib.PurePosixPath(member.filename).name.upper().startswith(("LICENSE", "NOTICE")):
                # For the image's list of licences.
                parts = pathlib.PurePosixPath(member.filename).parts
                member.filename = "-".join([parts[0].split("-")[0], *parts[1:]])
                archive.extract(member, work / "home/licenses")
PYTHON
  touch "$work/home/complete"
  rm -rf "$home"
  mv "$work/home" "$home"
fi
echo "$home"
