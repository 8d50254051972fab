// Opens the CUDA plug-in.

#include "plugin.h"

#include <dlfcn.h>

#include <c10/core/impl/VirtualGuardImpl.h>

#include "edge.h"

trainyard::Plugin trainyard::plugin;

namespace {

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

} // namespace

using trainyard::edge;

extern "C" {

ty_status ty_cuda_load(const char* path) {
  return edge([&] {
    void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    TORCH_CHECK(library != nullptr, dlerror());
    decltype(&trainyard_cuda_version) version = nullptr;
    TORCH_CHECK(find(library, "trainyard_cuda_version", version), path, " is not Trainyard's CUDA plug-in");
    trainyard::Plugin found;
    bool whole = find(library, "trainyard_cuda_nccl", found.nccl) &&
        find(library, "trainyard_cuda_flights", found.flights) && find(library, "trainyard_cuda_room", found.room) &&
        find(library, "trainyard_cuda_record", found.record);
    TORCH_CHECK(version() == TRAINYARD_CUDA_VERSION && whole, path, " has version ", version(),
                " and this trainer needs ", TRAINYARD_CUDA_VERSION);
    trainyard::plugin = found;
  });
}

ty_status ty_cuda_use(int index) {
  return edge([&] {
    c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
    c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  });
}

} // extern "C"
