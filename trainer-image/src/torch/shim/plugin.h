// What ty_cuda_load has found in the CUDA plug-in. Before it, and where there is no plug-in, all are null.
#pragma once

#include "cuda_plugin.h"

namespace trainyard {

struct Plugin {
  decltype(&trainyard_cuda_nccl) nccl = nullptr;
  decltype(&trainyard_cuda_flights) flights = nullptr;
  decltype(&trainyard_cuda_room) room = nullptr;
  decltype(&trainyard_cuda_record) record = nullptr;
};

extern Plugin plugin;

} // namespace trainyard
