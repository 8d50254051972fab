// The edge between C++ and Rust: no exception passes it.
#pragma once

#include <new>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "shim.h"

namespace trainyard {

ty_status failed(ty_status status, std::string text);

// Runs `body` and turns what it throws into a status.
template <typename Body>
ty_status edge(Body&& body) {
  try {
    body();
    return TY_OK;
  } catch (const c10::OutOfMemoryError& error) {
    return failed(TY_DEVICE_MEMORY, error.what_without_backtrace());
  } catch (const c10::AcceleratorError& error) {
    return failed(TY_DEVICE_FAULT, error.what_without_backtrace());
  } catch (const c10::DistError& error) {
    return failed(TY_DISTRIBUTED, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return failed(TY_OTHER, error.what_without_backtrace());
  } catch (const std::bad_alloc& error) {
    return failed(TY_HOST_MEMORY, error.what());
  } catch (const std::exception& error) {
    return failed(TY_OTHER, error.what());
  } catch (...) {
    return failed(TY_OTHER, "an exception of unknown type");
  }
}

inline std::vector<at::Tensor> tensors(ty_tensor* const* first, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t i = 0; i < count; i++) all.push_back(*first[i]);
  return all;
}

} // namespace trainyard
