// What the CUDA plug-in exports. The trainer opens it by dlopen when a GPU is to be used; a CPU machine never maps it.
// It is built against the same libtorch, so C++ objects and exceptions may pass, unlike at the edge to Rust.
#pragma once

#include <memory>
#include <string>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// Raised with every change of the functions below.
#define TRAINYARD_CUDA_VERSION 4

namespace trainyard {

// Work of the stream on which the calling thread computes, which is recorded and not done, and then done as a whole as often
// as it is asked for. One that is freed before its end is given up.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void end() = 0;
  virtual void replay() = 0;
};

} // namespace trainyard

extern "C" {
int trainyard_cuda_version(void);
// Makes an NCCL backend for this rank on device `index` and connects it at once. Throws what libtorch throws.
void trainyard_cuda_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int size, int index,
                         int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* backend);
// The collectives by NCCL that did not end, as the flight recorder has them: JSON. It asks events of device `index`, this
// rank's: a thread that has not chosen that device would open another one's, GPU 0, and take of its memory.
std::string trainyard_cuda_flights(int index);
// Bytes of device `index`: what is left for tensors, and the most that libtorch has had in use at once beyond what it has in
// use now, which is what a step takes for itself.
void trainyard_cuda_room(int index, int64_t* available, int64_t* step);
// Begins to record what this thread, and libtorch's threads on its behalf, have device `index` do. The stream must not be the
// default one.
void trainyard_cuda_record(int index, std::unique_ptr<trainyard::Recording>* recording);
}
