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
    --require-hashes --requirement /dev/stdin >&2 <<'WHEELS'
nvidia-cublas==13.1.0.3 --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cudnn-cu13==9.19.0.56 --hash=sha256:d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cufft==12.0.0.61 --hash=sha256:6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-cufile==1.15.1.6 --hash=sha256:08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35 --hash=sha256:1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusparse==12.6.3.3 --hash=sha256:2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cusparselt-cu13==0.8.0 --hash=sha256:25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd
nvidia-nccl-cu13==2.28.9 --hash=sha256:e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
nvidia-nvjitlink==13.0.88 --hash=sha256:13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-nvshmem-cu13==3.4.5 --hash=sha256:290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
WHEELS
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
