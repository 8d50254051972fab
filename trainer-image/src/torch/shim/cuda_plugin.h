// What the CUDA plug-in exports. The trainer opens it by dlopen when a GPU is to be used; a CPU machine never maps it.
// It is built against the same libtorch, so C++ objects and exceptions may pass, unlike at the edge to Rust.
#pragma once

#include <string>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// Raised with every change of the functions below.
#define TRAINYARD_CUDA_VERSION 3

extern "C" {
int trainyard_cuda_version(void);
// Makes an NCCL backend for this rank on device `index` and connects it at once. Throws what libtorch throws.
void trainyard_cuda_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int size, int index,
                         int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* backend);
// The collectives by NCCL that did not end, as the flight recorder has them: JSON. It asks events of device `index`, this
// rank's: a thread that has not chosen that device would open another one's, GPU 0, and take of its memory.
std::string trainyard_cuda_flights(int index);
}
