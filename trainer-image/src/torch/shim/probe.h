// How a library of NVIDIA's driver is asked: opened by name, function by function, and what failed is told. Plain C calls and
// fixed buffers: nothing here throws.
#pragma once

#include <cstdint>
#include <cstdio>

#include <dlfcn.h>

// Keep in step with torch/driver.rs.
struct ty_probe_report {
  int32_t code;           // the library's result of the call that failed
  int32_t cuda;           // CUDA version of the driver: 1000 * major + 10 * minor; 0 if unknown
  int32_t count;          // devices there are
  char text[512];         // what failed; ends with a zero
};

namespace trainyard {

enum Outcome { OK = 0, NO_LIBRARY = 1, NO_FUNCTION = 2, CALL_FAILED = 3 };

inline void say(ty_probe_report* report, const char* text) {
  std::snprintf(report->text, sizeof report->text, "%s", text ? text : "unknown");
}

// It stays open: the driver does not take being unloaded well, and libtorch needs it next.
inline void* open_library(const char* library, ty_probe_report* report) {
  void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!opened) say(report, dlerror());
  return opened;
}

template <typename Function>
bool find(void* library, const char* name, Function& function, ty_probe_report* report) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) say(report, name);
  return function != nullptr;
}

inline bool call(ty_probe_report* report, const char* name, int code) {
  report->code = code;
  if (code != 0) say(report, name);
  return code == 0;
}

} // namespace trainyard
