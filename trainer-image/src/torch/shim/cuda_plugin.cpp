// The CUDA half of the trainer: libtorch_cuda comes with it, and the NCCL backend is made here. See cuda_plugin.h.

#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "cuda_plugin.h"

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

} // extern "C"
