// Asks NVIDIA's management library (NVML) how the GPUs are. What a GPU or a driver does not tell is left out, not an error.

#include <cerrno>
#include <cstring>
#include <memory>
#include <new>

#include "probe.h"

extern "C" {

// Keep in step with torch/nvml.rs. Numbers that are not known are -1.
struct ty_nvml_gpu {
  char uuid[96];          // ends with a zero, as all texts
  char pci[32];           // address on the PCI bus: 00000000:3B:00.0
  char slices[8][96];     // UUIDs of the MIG slices that this process may see; empty ones at the end
  int64_t memory, free;   // bytes
  int64_t uncorrected;    // memory errors that were not corrected since the driver was loaded
  int64_t throttle;       // why its clocks are low: nvmlClocksThrottleReasons
  int32_t remapped, pending, failed; // rows of memory that were replaced; whether some wait for a reset; whether one could not be
  int32_t processes;      // that compute on it
  int32_t mig;            // whether it is cut into slices
  int32_t celsius;
  int32_t busy;           // share of the last moments in which it computed, in percent
};

// 0: all known; 1: the library can't be opened; 2: it lacks a function; 3: a call failed.
int ty_nvml_ask(const char* library, ty_probe_report* report, ty_nvml_gpu* gpus, int32_t capacity);

// From now on the driver's Xids of every GPU are kept for `events`, which is never freed. The results are as above.
int ty_nvml_watch(const char* library, ty_probe_report* report, void** events);
// Waits for the next one: its number, and the UUID of its GPU in 96 bytes, empty where nobody knows it. 3 where none came in time, or
// none can come.
int ty_nvml_next(const char* library, void* events, uint32_t milliseconds, uint64_t* number, char* uuid);
}

namespace {

using namespace trainyard;

// nvml.h.
using Device = void*;
constexpr int UNCORRECTED = 1, SINCE_DRIVER_LOAD = 0, GPU_TEMPERATURE = 0, INSUFFICIENT_SIZE = 7;
constexpr unsigned SLICES = sizeof(ty_nvml_gpu::slices) / sizeof(ty_nvml_gpu::slices[0]);

struct Memory {
  unsigned long long total, free, used;
};

struct Utilization {
  unsigned gpu, memory;
};

struct Pci {
  char legacy[16];
  unsigned domain, bus, device, device_id, subsystem;
  char address[32];
};

// nvmlEventData_t.
struct Event {
  Device device;
  unsigned long long type, data;
  unsigned gpu_instance, compute_instance;
};

constexpr unsigned long long XID = 0x8;

// What is kept for events: which GPU is which, since one that fell off the bus does not tell any more.
struct Watch {
  void* set;
  unsigned count;
  struct {
    Device device;
    char uuid[sizeof(ty_nvml_gpu::uuid)];
  } gpus[64];
};

struct Process {
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
};

// A function that may not be there, or may not know: then what it would fill in stays as it is.
template <typename... Parameters, typename... Arguments>
bool told(void* library, const char* name, int (*)(Parameters...), Arguments... arguments) {
  auto function = reinterpret_cast<int (*)(Parameters...)>(dlsym(library, name));
  return function && function(static_cast<Parameters>(arguments)...) == 0;
}

template <typename... Parameters>
constexpr int (*of())(Parameters...) {
  return nullptr;
}

void describe_slices(void* library, Device device, ty_nvml_gpu* gpu) {
  unsigned current = 0, pending = 0, most = 0, found = 0;
  if (!told(library, "nvmlDeviceGetMigMode", of<Device, unsigned*, unsigned*>(), device, &current, &pending)) return;
  gpu->mig = static_cast<int32_t>(current);
  if (current == 0 || !told(library, "nvmlDeviceGetMaxMigDeviceCount", of<Device, unsigned*>(), device, &most)) return;
  for (unsigned i = 0; i < most && found < SLICES; i++) {
    Device slice = nullptr;
    // Places without a slice, or whose slice belongs to another container, say so.
    if (told(library, "nvmlDeviceGetMigDeviceHandleByIndex", of<Device, unsigned, Device*>(), device, i, &slice) &&
        told(library, "nvmlDeviceGetUUID", of<Device, char*, unsigned>(), slice, gpu->slices[found], sizeof gpu->slices[0])) {
      found++;
    }
  }
}

int32_t processes(void* library, Device device) {
  using Count = int (*)(Device, unsigned*, Process*);
  auto count = reinterpret_cast<Count>(dlsym(library, "nvmlDeviceGetComputeRunningProcesses_v3"));
  if (!count) return -1;
  unsigned there = 0;
  // Without room for them it tells how many there are.
  int code = count(device, &there, nullptr);
  return code == 0 || code == INSUFFICIENT_SIZE ? static_cast<int32_t>(there) : -1;
}

void describe(void* library, Device device, ty_nvml_gpu* gpu) {
  std::memset(gpu, 0, sizeof *gpu);
  gpu->memory = gpu->free = gpu->uncorrected = gpu->throttle = -1;
  gpu->remapped = gpu->pending = gpu->failed = gpu->mig = gpu->celsius = gpu->busy = -1;
  told(library, "nvmlDeviceGetUUID", of<Device, char*, unsigned>(), device, gpu->uuid, sizeof gpu->uuid);
  Pci pci{};
  if (told(library, "nvmlDeviceGetPciInfo_v3", of<Device, Pci*>(), device, &pci)) {
    std::snprintf(gpu->pci, sizeof gpu->pci, "%s", pci.address);
  }
  Memory memory{};
  if (told(library, "nvmlDeviceGetMemoryInfo", of<Device, Memory*>(), device, &memory)) {
    gpu->memory = static_cast<int64_t>(memory.total);
    gpu->free = static_cast<int64_t>(memory.free);
  }
  unsigned long long number = 0;
  if (told(library, "nvmlDeviceGetTotalEccErrors", of<Device, int, int, unsigned long long*>(), device, UNCORRECTED,
           SINCE_DRIVER_LOAD, &number)) {
    gpu->uncorrected = static_cast<int64_t>(number);
  }
  if (told(library, "nvmlDeviceGetCurrentClocksThrottleReasons", of<Device, unsigned long long*>(), device, &number)) {
    gpu->throttle = static_cast<int64_t>(number);
  }
  unsigned correctable = 0, uncorrectable = 0, pending = 0, failed = 0;
  if (told(library, "nvmlDeviceGetRemappedRows", of<Device, unsigned*, unsigned*, unsigned*, unsigned*>(), device,
           &correctable, &uncorrectable, &pending, &failed)) {
    gpu->remapped = static_cast<int32_t>(correctable + uncorrectable);
    gpu->pending = static_cast<int32_t>(pending);
    gpu->failed = static_cast<int32_t>(failed);
  }
  gpu->processes = processes(library, device);
  unsigned celsius = 0;
  if (told(library, "nvmlDeviceGetTemperature", of<Device, int, unsigned*>(), device, GPU_TEMPERATURE, &celsius)) {
    gpu->celsius = static_cast<int32_t>(celsius);
  }
  Utilization busy{};
  if (told(library, "nvmlDeviceGetUtilizationRates", of<Device, Utilization*>(), device, &busy)) {
    gpu->busy = static_cast<int32_t>(busy.gpu);
  }
  describe_slices(library, device, gpu);
}

// Hands each GPU that the library knows to `each`, unless `prepare`, which comes once the library works, has a failure to tell.
template <typename Prepare, typename Each>
int each_device(void* library, ty_probe_report* report, Prepare prepare, Each each) {
  int (*init)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*get)(unsigned, Device*) = nullptr;
  if (!find(library, "nvmlInit_v2", init, report) || !find(library, "nvmlDeviceGetCount_v2", count, report) ||
      !find(library, "nvmlDeviceGetHandleByIndex_v2", get, report)) {
    return NO_FUNCTION;
  }
  unsigned there = 0;
  // Never shut down: it counts how often it was begun, and the next question comes soon.
  if (!call(report, "nvmlInit", init()) || !call(report, "nvmlDeviceGetCount", count(&there))) return CALL_FAILED;
  if (int failed = prepare(); failed != OK) return failed;
  for (unsigned i = 0; i < there; i++) {
    Device device = nullptr;
    // One that fell off the bus has no handle; the driver's own library tells of that.
    if (get(i, &device) == 0) each(device);
  }
  return OK;
}

} // namespace

int ty_nvml_ask(const char* library, ty_probe_report* report, ty_nvml_gpu* gpus, int32_t capacity) {
  std::memset(report, 0, sizeof *report);
  void* opened = open_library(library, report);
  if (!opened) return NO_LIBRARY;
  auto ask = [&](Device device) {
    if (report->count < capacity) describe(opened, device, gpus + report->count++);
  };
  return each_device(opened, report, [] { return OK; }, ask);
}

int ty_nvml_watch(const char* library, ty_probe_report* report, void** events) {
  std::memset(report, 0, sizeof *report);
  void* opened = open_library(library, report);
  if (!opened) return NO_LIBRARY;
  std::unique_ptr<Watch> watch(new (std::nothrow) Watch{});
  if (!call(report, "malloc", watch ? 0 : ENOMEM)) return CALL_FAILED;
  int (*enlist)(Device, unsigned long long, void*) = nullptr;
  auto prepare = [&]() -> int {
    int (*create)(void**) = nullptr;
    if (!find(opened, "nvmlEventSetCreate", create, report) ||
        !find(opened, "nvmlDeviceRegisterEvents", enlist, report)) {
      return NO_FUNCTION;
    }
    return call(report, "nvmlEventSetCreate", create(&watch->set)) ? OK : CALL_FAILED;
  };
  // One that has no such events is passed over.
  auto add = [&](Device device) {
    if (enlist(device, XID, watch->set) != 0) return;
    report->count++;
    if (watch->count == sizeof watch->gpus / sizeof *watch->gpus) return;
    auto& gpu = watch->gpus[watch->count++];
    gpu.device = device;
    told(opened, "nvmlDeviceGetUUID", of<Device, char*, unsigned>(), device, gpu.uuid, sizeof gpu.uuid);
  };
  int outcome = each_device(opened, report, prepare, add);
  if (outcome == OK) *events = watch.release();
  return outcome;
}

int ty_nvml_next(const char* library, void* events, uint32_t milliseconds, uint64_t* number, char* uuid) {
  auto watch = static_cast<const Watch*>(events);
  ty_probe_report unused;
  void* opened = open_library(library, &unused);
  int (*wait)(void*, Event*, unsigned) = nullptr;
  Event event{};
  if (!opened || !find(opened, "nvmlEventSetWait_v2", wait, &unused) || wait(watch->set, &event, milliseconds) != 0 ||
      event.type != XID) {
    return CALL_FAILED;
  }
  *number = event.data;
  constexpr unsigned room = sizeof(ty_nvml_gpu::uuid);
  uuid[0] = '\0';
  for (unsigned i = 0; i < watch->count; i++) {
    if (watch->gpus[i].device == event.device) std::memcpy(uuid, watch->gpus[i].uuid, room);
  }
  if (uuid[0] == '\0') told(opened, "nvmlDeviceGetUUID", of<Device, char*, unsigned>(), event.device, uuid, room);
  return OK;
}
