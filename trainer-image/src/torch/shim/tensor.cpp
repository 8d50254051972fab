// Small things on tensors that tch lacks: backward with typed errors, gradients, channels-last, autocast, determinism, the
// generator.

#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include "edge.h"

using trainyard::edge;

extern "C" {

ty_status ty_backward(ty_tensor* loss) {
  return edge([&] { loss->backward(); });
}

ty_status ty_clear_gradients(ty_tensor* const* parameters, size_t count) {
  return edge([&] {
    for (size_t i = 0; i < count; i++) parameters[i]->mutable_grad().reset();
  });
}

// torch.nn.utils.clip_grad_norm_ with the norm of order 2, in its order of operations.
ty_status ty_clip_gradients(ty_tensor* const* parameters, size_t count, double max_norm, ty_tensor** norm) {
  return edge([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients;
    for (size_t i = 0; i < count; i++) {
      if (parameters[i]->grad().defined()) gradients.push_back(parameters[i]->grad());
    }
    TORCH_CHECK(!gradients.empty(), "no parameter has a gradient to clip");
    auto total = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients, 2.0)), 2.0);
    // Python divides a number by a tensor so; C++'s operator rounds once where this rounds twice.
    at::_foreach_mul_(gradients, ((total + 1e-6).reciprocal() * max_norm).clamp_max(1.0));
    *norm = new at::Tensor(std::move(total));
  });
}

ty_status ty_set_channels_last(ty_tensor* tensor) {
  return edge([&] {
    if (tensor->dim() != 4) return;
    at::NoGradGuard no_grad;
    tensor->set_data(tensor->to(tensor->options(), false, false, at::MemoryFormat::ChannelsLast));
  });
}

ty_status ty_to_channels_last(ty_tensor* tensor, ty_tensor** out) {
  return edge([&] { *out = new at::Tensor(tensor->contiguous(at::MemoryFormat::ChannelsLast)); });
}

bool ty_is_channels_last(const ty_tensor* tensor) {
  return tensor->dim() == 4 && tensor->is_contiguous(at::MemoryFormat::ChannelsLast);
}

// Enter and leave do what torch.autocast's __enter__ and __exit__ do.
ty_status ty_autocast_enter(int device_type, bool enabled, int dtype, ty_autocast* before) {
  return edge([&] {
    auto device = static_cast<at::DeviceType>(device_type);
    before->enabled = at::autocast::is_autocast_enabled(device);
    before->cache_enabled = at::autocast::is_autocast_cache_enabled();
    before->dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
    at::autocast::set_autocast_enabled(device, enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::increment_nesting();
    at::autocast::set_autocast_cache_enabled(true);
  });
}

ty_status ty_autocast_leave(int device_type, ty_autocast before) {
  return edge([&] {
    auto device = static_cast<at::DeviceType>(device_type);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device, before.enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before.dtype));
    at::autocast::set_autocast_cache_enabled(before.cache_enabled);
  });
}

// torch.use_deterministic_algorithms(True), for cuDNN as well. Not only to warn: then some kernels, of attention among
// them, stay as they were.
ty_status ty_allow_only_deterministic(void) {
  return edge([] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /* warn_only */ false);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    // Nobody reads memory that was not written: to fill it first would only take time.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

bool ty_is_deterministic(void) {
  return at::globalContext().deterministicAlgorithms();
}

ty_status ty_rng_state(ty_tensor** out) {
  return edge([&] {
    auto generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(generator.mutex());
    *out = new at::Tensor(generator.get_state());
  });
}

ty_status ty_set_rng_state(ty_tensor* state) {
  return edge([&] {
    auto generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

} // extern "C"
