// libtorch's optimizer steps over all parameters at once: fused kernels where there are some, one pass over memory; else
// torch.optim's sequence of foreach operations, which on a CPU are its operations on each tensor. Parameters without a
// gradient are left out, with their state, as torch.optim does.

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/_foreach_abs.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_maximum.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adagrad.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

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

// The gradients with the L2 penalty. They are new tensors where there is one: the gradients themselves stay.
std::vector<at::Tensor> penalised(const std::vector<at::Tensor>& gradients, const std::vector<at::Tensor>& parameters,
                                  double weight_decay) {
  return weight_decay == 0 ? gradients : at::_foreach_add(gradients, parameters, weight_decay);
}

std::optional<at::Tensor> overflowed(const ty_on_device& on_device) {
  return on_device.overflowed == nullptr ? std::nullopt : std::optional<at::Tensor>(*on_device.overflowed);
}

} // namespace

extern "C" {

ty_status ty_fused_sgd(ty_tensor* const* parameters, ty_tensor* const* buffers, size_t count, ty_sgd options,
                       ty_on_device on_device) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto update = [&](const auto& learning_rate) {
      at::_fused_sgd_(pick(parameters, indices), gradients(parameters, indices), pick(buffers, indices),
                      options.weight_decay, options.momentum, learning_rate, options.dampening, options.nesterov,
                      /* maximize */ false, options.first_step, /* grad_scale */ {}, overflowed(on_device));
    };
    if (on_device.learning_rate != nullptr) {
      update(*on_device.learning_rate);
    } else {
      update(options.learning_rate);
    }
  });
}

ty_status ty_fused_adam(ty_tensor* const* parameters, ty_tensor* const* means, ty_tensor* const* squares,
                        ty_tensor* const* max_squares, ty_tensor* const* steps, size_t count, ty_adam options,
                        ty_on_device on_device) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto counted = pick(steps, indices);
    at::_foreach_add_(counted, 1);
    auto update = [&](auto kernel, const auto& learning_rate) {
      kernel(pick(parameters, indices), gradients(parameters, indices), pick(means, indices), pick(squares, indices),
             pick(max_squares, indices), counted, learning_rate, options.beta1, options.beta2, options.weight_decay,
             options.epsilon, options.amsgrad, /* maximize */ false, std::optional<at::Tensor>{},
             overflowed(on_device));
      // A step that was left out does not count.
      if (on_device.overflowed != nullptr) {
        at::_foreach_sub_(counted, std::vector<at::Tensor>(counted.size(), *on_device.overflowed));
      }
    };
    auto by = [&](auto kernel) {
      if (on_device.learning_rate != nullptr) {
        update(kernel, *on_device.learning_rate);
      } else {
        update(kernel, options.learning_rate);
      }
    };
    if (options.decoupled) {
      by([](auto&&... arguments) { at::_fused_adamw_(arguments...); });
    } else {
      by([](auto&&... arguments) { at::_fused_adam_(arguments...); });
    }
  });
}

ty_status ty_fused_adagrad(ty_tensor* const* parameters, ty_tensor* const* sums, ty_tensor* const* steps, size_t count,
                           ty_adagrad options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto counted = pick(steps, indices);
    at::_foreach_add_(counted, 1);
    at::_fused_adagrad_(pick(parameters, indices), gradients(parameters, indices), pick(sums, indices), counted,
                        options.learning_rate, options.learning_rate_decay, options.weight_decay, options.epsilon,
                        /* maximize */ false);
  });
}

ty_status ty_rmsprop(ty_tensor* const* parameters, ty_tensor* const* squares, ty_tensor* const* buffers,
                     ty_tensor* const* steps, size_t count, ty_rmsprop_options options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto weights = pick(parameters, indices), mean_squares = pick(squares, indices);
    at::_foreach_add_(pick(steps, indices), 1);
    auto slopes = penalised(gradients(parameters, indices), weights, options.weight_decay);
    at::_foreach_mul_(mean_squares, options.alpha);
    at::_foreach_addcmul_(mean_squares, slopes, slopes, 1 - options.alpha);
    auto roots = at::_foreach_sqrt(mean_squares);
    at::_foreach_add_(roots, options.epsilon);
    if (buffers == nullptr) {
      at::_foreach_addcdiv_(weights, slopes, roots, -options.learning_rate);
      return;
    }
    auto momenta = pick(buffers, indices);
    at::_foreach_mul_(momenta, options.momentum);
    at::_foreach_addcdiv_(momenta, slopes, roots);
    at::_foreach_add_(weights, momenta, -options.learning_rate);
  });
}

ty_status ty_adamax(ty_tensor* const* parameters, ty_tensor* const* means, ty_tensor* const* norms,
                    ty_tensor* const* steps, size_t count, ty_adam options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto weights = pick(parameters, indices), averages = pick(means, indices), largest = pick(norms, indices);
    auto counted = pick(steps, indices);
    at::_foreach_add_(counted, 1);
    auto slopes = penalised(gradients(parameters, indices), weights, options.weight_decay);
    at::_foreach_lerp_(averages, slopes, 1 - options.beta1);
    at::_foreach_mul_(largest, options.beta2);
    auto sizes = at::_foreach_abs(slopes);
    at::_foreach_add_(sizes, options.epsilon);
    at::_foreach_maximum_(largest, sizes);
    std::vector<at::Scalar> rates;
    for (const auto& step : counted) {
      rates.emplace_back(-(options.learning_rate / (1 - std::pow(options.beta1, step.item<double>()))));
    }
    at::_foreach_addcdiv_(weights, averages, largest, rates);
  });
}

ty_status ty_adadelta(ty_tensor* const* parameters, ty_tensor* const* squares, ty_tensor* const* deltas,
                      ty_tensor* const* steps, size_t count, ty_adadelta_options options) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto weights = pick(parameters, indices), mean_squares = pick(squares, indices), moved = pick(deltas, indices);
    at::_foreach_add_(pick(steps, indices), 1);
    auto slopes = penalised(gradients(parameters, indices), weights, options.weight_decay);
    at::_foreach_mul_(mean_squares, options.rho);
    at::_foreach_addcmul_(mean_squares, slopes, slopes, 1 - options.rho);
    auto roots = at::_foreach_add(mean_squares, options.epsilon);
    at::_foreach_sqrt_(roots);
    auto change = at::_foreach_add(moved, options.epsilon);
    at::_foreach_sqrt_(change);
    at::_foreach_div_(change, roots);
    at::_foreach_mul_(change, slopes);
    at::_foreach_mul_(moved, options.rho);
    at::_foreach_addcmul_(moved, change, change, 1 - options.rho);
    at::_foreach_add_(weights, change, -options.learning_rate);
  });
}

ty_status ty_unscale_gradients(ty_tensor* const* parameters, size_t count, float inverse, bool* overflowed) {
  return edge([&] {
    at::NoGradGuard no_grad;
    *overflowed = false;
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    auto scaled = gradients(parameters, indices);
    auto options = scaled[0].options().dtype(at::kFloat);
    auto found = at::zeros({}, options);
    at::_amp_foreach_non_finite_check_and_unscale_(scaled, found, at::full({}, inverse, options));
    *overflowed = found.item<float>() != 0;
  });
}

ty_status ty_unscale_gradients_there(ty_tensor* const* parameters, size_t count, ty_tensor* inverse,
                                     ty_tensor* overflowed) {
  return edge([&] {
    at::NoGradGuard no_grad;
    overflowed->zero_();
    auto indices = with_gradient(parameters, count);
    if (indices.empty()) return;
    at::_amp_foreach_non_finite_check_and_unscale_(gradients(parameters, indices), *overflowed, *inverse);
  });
}

ty_status ty_update_scale(ty_tensor* scale, ty_tensor* good_steps, ty_tensor* overflowed, double growth, double backoff,
                          int64_t interval) {
  return edge([&] {
    at::NoGradGuard no_grad;
    at::_amp_update_scale_(*scale, *good_steps, *overflowed, growth, backoff, interval);
  });
}

ty_status ty_lerp(ty_tensor* const* targets, ty_tensor* const* sources, size_t count, double weight) {
  return edge([&] {
    at::NoGradGuard no_grad;
    if (count > 0) at::_foreach_lerp_(trainyard::tensors(targets, count), trainyard::tensors(sources, count), weight);
  });
}

} // extern "C"
