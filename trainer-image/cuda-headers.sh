#!/usr/bin/env bash
# Fetches what the CUDA plug-in is built with into a cache: CUDA's headers and torch's CUDA half, from wheels on PyPI (1.1 GB of
# downloads, once). The last line on standard output is its folder.
set -euo pipefail

# What torch 2.11.0's wheel was built with; another nccl.h is another ABI.
torch=2.11.0 cudart=13.0.96 crt=13.0.88 cccl=13.0.85 nccl=2.28.9
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/cuda-$torch

if [ ! -e "$home/complete" ]; then
  echo "cuda-headers: fetching CUDA headers and torch's CUDA half (1.1 GB) from PyPI into $home" >&2
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/cuda.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 \
    --dest "$work/wheels" --require-hashes --requirement /dev/stdin >&2 <<WHEELS
torch==$torch --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==$cudart --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-crt==$crt --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-cccl==$cccl --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-nccl-cu13==$nccl --hash=sha256:e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
WHEELS
  python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
(work / "home/lib").mkdir(parents=True)
wanted = {"libtorch_cuda.so", "libc10_cuda.so"}
for wheel in (work / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = pathlib.PurePosixPath(member.filename)
            if member.is_dir():
                continue
            if path.name in wanted:
                member.filename = path.name
                archive.extract(member, work / "home/lib")
                wanted.discard(path.name)
            elif path.parts[0] == "nvidia" and "include" in path.parts:
                member.filename = str(pathlib.PurePosixPath(*path.parts[path.parts.index("include"):]))
                archive.extract(member, work / "home")
if wanted:
    sys.exit(f"cuda-headers: the wheels lack {sorted(wanted)}")
# libtorch's CUDA headers mention handles of libraries that the plug-in does not use.
stubs = {
    "cublas_v2.h": "typedef struct cublasContext* cublasHandle_t; typedef enum {} cublasStatus_t;",
    "cublasLt.h": "typedef struct cublasLtContext* cublasLtHandle_t;",
    "cusparse.h": "typedef struct cusparseContext* cusparseHandle_t; typedef enum {} cusparseStatus_t;",
    "cusolverDn.h": "typedef struct cusolverDnContext* cusolverDnHandle_t;",
    "cusolver_common.h": "typedef enum {} cusolverStatus_t;",
}
for name, text in stubs.items():
    (work / "home/include" / name).write_text(f"#pragma once\n{text}\n")
PYTHON
  touch "$work/home/complete"
  rm -rf "$home"
  mv "$work/home" "$home"
fi
echo "$home"
