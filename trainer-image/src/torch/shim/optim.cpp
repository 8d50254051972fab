// libtorch's fused optimizer steps: one pass over memory for all parameters. Parameters without a gradient are left out,
// with their state, as torch.optim does.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include "edge.h"

using trainyard::edge;

namespace {

std::vector<size_t> with_gradient(ty_tensor* const* parameters, size_t count) {
  std::vector<size_t> indices;
  for (size_t i = 0; i < count; i++) {
    if (parameters[i]->grad().defined()) indices.push_back(i);
  }
  return indices;
}

std::vector<at::Tensor> pick(ty_tensor* const* all, const std::vector<size_t>& indices) {
  std::vector<at::Tensor> picked;
  if (all == nullptr) return picked;
  for (size_t i : indices) picked.push_back(*all[i]);
  return picked;
}

std::vector<at::Tensor> gradients(ty_tensor* const* parameters, const std::vector<size_t>& indices) {
  std::vector<at::Tensor> picked;
  for (size_t i : indices) picked.push_back(parameters[i]->grad());
  return picked;
}

} // namespace

extern "C" {

ty_status ty_fused_sgd(ty_tensor* const* parameters, ty_tensor* const* buffers, size_t count, ty_sgd options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    at::_fused_sgd_(pick(parameters, indices), gradients(parameters, indices), pick(buffers, indices),
                    options.weight_decay, options.momentum, options.learning_rate, options.dampening, options.nesterov,
                    /* maximize */ false, options.first_step);
  });
}

ty_status ty_fused_adam(ty_tensor* const* parameters, ty_tensor* const* means, ty_tensor* const* squares,
                        ty_tensor* const* max_squares, ty_tensor* const* steps, size_t count, ty_adam options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto counted = pick(steps, indices);
    at::_foreach_add_(counted, 1);
    auto update = [&](auto kernel) {
      kernel(pick(parameters, indices), gradients(parameters, indices), pick(means, indices), pick(squares, indices),
             pick(max_squares, indices), counted, options.learning_rate, options.beta1, options.beta2,
             options.weight_decay, options.epsilon, options.amsgrad, /* maximize */ false,
             std::optional<at::Tensor>{}, std::optional<at::Tensor>{});
    };
    if (options.decoupled) {
      update([](auto&&... arguments) { at::_fused_adamw_(arguments...); });
    } else {
      update([](auto&&... arguments) { at::_fused_adam_(arguments...); });
    }
  });
}

} // extern "C"
