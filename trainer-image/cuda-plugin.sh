#!/usr/bin/env bash
# Builds the CUDA plug-in (src/torch/shim/cuda_plugin.cpp), which a GPU image adds to the trainer: `cuda-plugin.sh
# [FILE]`, by default target/cuda/libtrainyard_cuda.so. Needs g++ and no GPU. Headers and the two libraries to link are those that
# cuda-headers.sh fetches. To load it, a machine also needs the nvidia wheels that torch lists.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
shim=$root/trainer-image/src/torch/shim
out=${1:-$root/target/cuda/libtrainyard_cuda.so}

"$root/trainer-image/libtorch.sh"
home=$("$root/trainer-image/cuda-headers.sh")
mkdir -p "$(dirname "$out")"
# shellcheck disable=SC2086 # CXX may be two words, such as "ccache g++".
${CXX:-g++} -std=c++17 -O2 -fPIC -shared -fvisibility-inlines-hidden -DUSE_DISTRIBUTED -DUSE_C10D_NCCL \
  -isystem "$root/.libtorch/include" -isystem "$root/.libtorch/include/torch/csrc/api/include" \
  -isystem "$home/include" -isystem "$home/include/cccl" -I "$shim" "$shim/cuda_plugin.cpp" \
  -L "$home/lib" -L "$root/.libtorch/lib" -ltorch_cuda -lc10_cuda -ltorch_cpu -lc10 -l:libcudart.so.13 \
  -Wl,-z,defs -Wl,--allow-shlib-undefined -Wl,-rpath,'$ORIGIN' -o "$out"
echo "cuda-plugin: $out" >&2
