// The CUDA half of the trainer: libtorch_cuda comes with it; the NCCL backend and CUDA graphs are made here. See cuda_plugin.h.

#include <algorithm>

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "cuda_plugin.h"

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Steps of a clean-up that go on whatever one of them says.
template <typename Step>
void try_to(Step&& step) {
  try {
    step();
  } catch (const std::exception&) {
  }
}

class RecordedGraph : public trainyard::Recording {
 public:
  explicit RecordedGraph(c10::DeviceIndex index) : device_(c10::DeviceType::CUDA, index) {
    c10::DeviceGuard on(device_);
    // What steps before have left in the cache is of no use to the graph, whose memory is its own.
    c10::cuda::device_synchronize();
    allocator::emptyCache();
    // Of this thread alone: NCCL's watchdog asks for its events meanwhile.
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    is_recording_ = true;
  }

  ~RecordedGraph() override {
    if (is_recording_) give_up();
  }

  void end() override {
    c10::DeviceGuard on(device_);
    graph_.capture_end();
    is_recording_ = false;
  }

  void replay() override {
    c10::DeviceGuard on(device_);
    graph_.replay();
  }

 private:
  // Something failed meanwhile. CUDA ends a recording that has failed with an error, by which libtorch leaves the rest of its
  // own end out: memory that is still set aside for the graph, and a generator that takes every draw for one of the graph.
  void give_up() {
    c10::DeviceGuard on(device_);
    try {
      graph_.capture_end();
      return;
    } catch (const std::exception&) {
    }
    try_to([&] { allocator::endAllocateToPool(device_.index(), pool_); });
    try_to([&] { allocator::releasePool(device_.index(), pool_); });
    try_to([&] {
      auto generator = at::cuda::detail::getDefaultCUDAGenerator(device_.index());
      auto fresh = at::cuda::detail::createCUDAGenerator(device_.index());
      std::lock_guard<std::mutex> lock(generator.mutex());
      fresh.set_current_seed(generator.current_seed());
      generator.graphsafe_set_state(fresh);
    });
  }

  c10::Device device_;
  c10::MempoolId_t pool_ = at::cuda::graph_pool_handle();
  at::cuda::CUDAGraph graph_;
  bool is_recording_ = false;
};

} // namespace

extern "C" {

int trainyard_cuda_version(void) {
  return TRAINYARD_CUDA_VERSION;
}

void trainyard_cuda_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int size, int index,
                         int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* backend) {
  at::Device device(at::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
  c10::cuda::set_device(device.index());
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, size, options);
  nccl->setBoundDeviceId(device);
  // Connecting now makes a rank without a working link fail here, not in the middle of the first backward.
  nccl->eagerConnectSingleDevice(device);
  *backend = std::move(nccl);
}

std::string trainyard_cuda_flights(int index) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  return c10d::dump_nccl_trace_json(/* includeCollectives */ true, /* onlyActive */ true);
}

void trainyard_cuda_room(int index, int64_t* available, int64_t* step) {
  auto device = static_cast<c10::DeviceIndex>(index);
  auto stats = allocator::getDeviceStats(device);
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto &used = stats.allocated_bytes[all], &held = stats.reserved_bytes[all];
  auto free = static_cast<int64_t>(allocator::get()->getMemoryInfo(device).first);
  *available = free + std::max<int64_t>(held.current - used.current, 0);
  *step = std::max<int64_t>(used.peak - used.current, 0);
}

void trainyard_cuda_record(int index, std::unique_ptr<trainyard::Recording>* recording) {
  *recording = std::make_unique<RecordedGraph>(static_cast<c10::DeviceIndex>(index));
}

} // extern "C"
