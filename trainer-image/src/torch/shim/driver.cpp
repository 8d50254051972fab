// Asks CUDA's driver library what is there, without libtorch and without any of CUDA's own libraries: the library is
// opened here and nowhere else, so a machine without a GPU maps nothing of it.

#include <cstring>

#include "probe.h"

extern "C" {

// Keep in step with torch/driver.rs.
struct ty_driver_device {
  char name[256];         // ends with a zero
  unsigned char uuid[16];
  uint64_t memory;        // bytes
  int32_t major, minor;   // compute capability
};

// 0: all known; 1: the library can't be opened; 2: it lacks a function; 3: a call failed.
int ty_driver_probe(const char* library, ty_probe_report* report, ty_driver_device* devices, int32_t capacity);
// Address of a device on the PCI bus: domain, bus, device. 0 if it is known.
int ty_driver_pci(const char* library, int32_t index, int32_t* address);
}

namespace {

using namespace trainyard;

// The few functions that are asked, by the names that the library exports.
struct Driver {
  int (*init)(unsigned);
  int (*version)(int*);
  int (*count)(int*);
  int (*get)(int*, int);
  int (*name)(char*, int, int);
  int (*uuid)(unsigned char*, int);
  int (*memory)(size_t*, int);
  int (*attribute)(int*, int, int);
};

// cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
constexpr int CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76;
// Likewise ..._PCI_DOMAIN_ID, _PCI_BUS_ID and _PCI_DEVICE_ID.
constexpr int PCI_ADDRESS[] = {50, 33, 34};

bool find_all(void* library, Driver& driver, ty_probe_report* report) {
  // A MIG slice has a UUID of its own, which only the second version tells.
  driver.uuid = reinterpret_cast<decltype(driver.uuid)>(dlsym(library, "cuDeviceGetUuid_v2"));
  return find(library, "cuInit", driver.init, report) && find(library, "cuDriverGetVersion", driver.version, report) &&
         find(library, "cuDeviceGetCount", driver.count, report) && find(library, "cuDeviceGet", driver.get, report) &&
         find(library, "cuDeviceGetName", driver.name, report) &&
         (driver.uuid || find(library, "cuDeviceGetUuid", driver.uuid, report)) &&
         find(library, "cuDeviceTotalMem_v2", driver.memory, report) &&
         find(library, "cuDeviceGetAttribute", driver.attribute, report);
}

bool describe(const Driver& driver, int index, ty_driver_device* device, ty_probe_report* report) {
  int handle = 0, major = 0, minor = 0;
  size_t memory = 0;
  std::memset(device, 0, sizeof *device);
  if (!call(report, "cuDeviceGet", driver.get(&handle, index)) ||
      !call(report, "cuDeviceGetName", driver.name(device->name, sizeof device->name - 1, handle)) ||
      !call(report, "cuDeviceGetUuid", driver.uuid(device->uuid, handle)) ||
      !call(report, "cuDeviceTotalMem", driver.memory(&memory, handle)) ||
      !call(report, "cuDeviceGetAttribute", driver.attribute(&major, CAPABILITY_MAJOR, handle)) ||
      !call(report, "cuDeviceGetAttribute", driver.attribute(&minor, CAPABILITY_MINOR, handle))) {
    return false;
  }
  device->memory = memory;
  device->major = major;
  device->minor = minor;
  return true;
}

} // namespace

// Plain C calls and fixed buffers: nothing here throws.
int ty_driver_probe(const char* library, ty_probe_report* report, ty_driver_device* devices, int32_t capacity) {
  std::memset(report, 0, sizeof *report);
  void* opened = open_library(library, report);
  if (!opened) return NO_LIBRARY;
  Driver driver{};
  if (!find_all(opened, driver, report)) return NO_FUNCTION;
  // Before cuInit: it tells the version even where the GPUs can't be used.
  if (driver.version(&report->cuda) != 0) report->cuda = 0;
  if (!call(report, "cuInit", driver.init(0)) || !call(report, "cuDeviceGetCount", driver.count(&report->count))) {
    return CALL_FAILED;
  }
  for (int i = 0; i < report->count && i < capacity; i++) {
    if (!describe(driver, i, devices + i, report)) return CALL_FAILED;
  }
  return OK;
}

int ty_driver_pci(const char* library, int32_t index, int32_t* address) {
  ty_probe_report report{};
  void* opened = open_library(library, &report);
  if (!opened) return NO_LIBRARY;
  Driver driver{};
  if (!find(opened, "cuInit", driver.init, &report) || !find(opened, "cuDeviceGet", driver.get, &report) ||
      !find(opened, "cuDeviceGetAttribute", driver.attribute, &report)) {
    return NO_FUNCTION;
  }
  int handle = 0;
  if (driver.init(0) != 0 || driver.get(&handle, index) != 0) return CALL_FAILED;
  for (int i = 0; i < 3; i++) {
    if (driver.attribute(address + i, PCI_ADDRESS[i], handle) != 0) return CALL_FAILED;
  }
  return OK;
}
