#!/usr/bin/env bash
# Builds the CUDA plug-in (src/torch/shim/cuda_plugin.cpp), which a GPU image adds to the trainer: `cuda-plugin.sh
# [FILE]`, by default target/cuda/libtrainyard_cuda.so. Needs g++ and no GPU. Headers and the two libraries to link come
# from PyPI wheels (1.1 GB of downloads, once). To load it, a machine also needs the nvidia wheels that torch lists.
set -euo pipefail

# What torch 2.11.0's wheel was built with; another nccl.h is another ABI.
torch=2.11.0 cudart=13.0.96 crt=13.0.88 cccl=13.0.85 nccl=2.28.9
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/cuda-$torch
shim=$root/trainer-image/src/torch/shim
out=${1:-$root/target/cuda/libtrainyard_cuda.so}

"$root/trainer-image/libtorch.sh"
if [ ! -e "$home/complete" ]; then
  echo "cuda-plugin: fetching CUDA headers and torch's CUDA half (1.1 GB) from PyPI into $home" >&2
  work=$(mktemp -d "$cache/cuda.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 \
    --dest "$work/wheels" "torch==$torch" "nvidia-cuda-runtime==$cudart" "nvidia-cuda-crt==$crt" \
    "nvidia-cuda-cccl==$cccl" "nvidia-nccl-cu13==$nccl"
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
    sys.exit(f"cuda-plugin: the wheels lack {sorted(wanted)}")
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

mkdir -p "$(dirname "$out")"
# shellcheck disable=SC2086 # CXX may be two words, such as "ccache g++".
${CXX:-g++} -std=c++17 -O2 -fPIC -shared -fvisibility-inlines-hidden -DUSE_DISTRIBUTED -DUSE_C10D_NCCL \
  -isystem "$root/.libtorch/include" -isystem "$root/.libtorch/include/torch/csrc/api/include" \
  -isystem "$home/include" -isystem "$home/include/cccl" -I "$shim" "$shim/cuda_plugin.cpp" \
  -L "$home/lib" -L "$root/.libtorch/lib" -ltorch_cuda -lc10_cuda -ltorch_cpu -lc10 \
  -Wl,-z,defs -Wl,--allow-shlib-undefined -Wl,-rpath,'$ORIGIN' -o "$out"
echo "cuda-plugin: $out" >&2
