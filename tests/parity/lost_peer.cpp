// In place of the CUDA plug-in, for machines without a GPU: "NCCL" whose watchdog, a thread of its own, throws what the
// environment's LOST_PEER says once the store has the key `lost`, as libtorch's does when it has lost another rank.

#include <chrono>
#include <cstdlib>
#include <thread>

#include "cuda_plugin.h"

namespace {

struct Idle : c10d::Backend {
  using Backend::Backend;
};

} // namespace

int trainyard_cuda_version(void) {
  return TRAINYARD_CUDA_VERSION;
}

void trainyard_cuda_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int size, int, int64_t,
                         c10::intrusive_ptr<c10d::Backend>* backend) {
  *backend = c10::make_intrusive<Idle>(rank, size);
  if (rank != 0) return;
  std::thread([store = *store] {
    while (!store->check({"lost"})) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    TORCH_CHECK_WITH(DistBackendError, false, std::getenv("LOST_PEER"));
  }).detach();
}

std::string trainyard_cuda_flights(int) {
  return R"({"entries":[{"collective_seq_id":7,"profiling_name":"nccl:all_reduce","input_sizes":[[4,2]],"state":"started"}]})";
}

void trainyard_cuda_room(int, int64_t* available, int64_t* step) {
  *available = *step = 0;
}

void trainyard_cuda_record(int, std::unique_ptr<trainyard::Recording>*) {
  TORCH_CHECK(false, "there is no GPU");
}
