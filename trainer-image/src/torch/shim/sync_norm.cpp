// Batch norm over the batches of all ranks: torch.nn.SyncBatchNorm, which PyTorch has for GPUs alone, by operations that
// every device has. Ioffe and Szegedy 2015 for the gradients; the sums travel as doubles, so that no precision is lost.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "edge.h"
#include "group.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Processes = c10::intrusive_ptr<c10d::ProcessGroup>;

// The sum over all ranks, in place.
void sum(const Processes& processes, const at::Tensor& tensor) {
  std::vector<at::Tensor> one{tensor};
  processes->allreduce(one)->wait();
}

// A vector over channels in a shape that fits images [batch, channels, height, width].
at::Tensor by_channel(const at::Tensor& vector) {
  return vector.view({1, -1, 1, 1});
}

struct SyncBatchNorm : torch::autograd::Function<SyncBatchNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, const at::Tensor& running_mean, const at::Tensor& running_var,
                            double momentum, double epsilon, const Processes& processes) {
    auto input = images.contiguous(images.suggest_memory_format());
    auto channels = input.size(1);
    double count = static_cast<double>(input.numel()) / static_cast<double>(channels);
    // Kernels take statistics of 16-bit images as floats if such are to be updated: these two are thrown away.
    auto mean_unused = at::zeros_like(running_mean), var_unused = at::zeros_like(running_var);
    auto [own_mean, own_var] = at::batch_norm_update_stats(input, mean_unused, var_unused, 0.0);
    auto mean = own_mean.to(at::kDouble), var = own_var.to(at::kDouble);
    auto sums = at::cat({mean * count, (var + mean * mean) * count, at::full({1}, count, mean.options())});
    sum(processes, sums);
    auto total = sums.slice(0, 2 * channels);
    mean = sums.slice(0, 0, channels) / total;
    var = (sums.slice(0, channels, 2 * channels) / total - mean * mean).clamp_min(0.0);
    running_mean.mul_(1.0 - momentum).add_(mean, momentum);
    running_var.mul_(1.0 - momentum).add_(var * (total / (total - 1.0).clamp_min(1.0)), momentum);
    auto mean_float = mean.to(running_mean.scalar_type()), var_float = var.to(running_var.scalar_type());
    // With given statistics it is the norm of an evaluation. What that keeps for its backward pass is empty, and GPUs'
    // kernels ask for it nevertheless.
    auto [output, kept_mean, kept_inverse] =
        at::native_batch_norm(input, weight, bias, mean_float, var_float, /* training */ false, 0.0, epsilon);
    context->save_for_backward({input, weight, mean_float, var_float, total, kept_mean, kept_inverse});
    context->saved_data["epsilon"] = epsilon;
    context->saved_data["processes"] = c10::IValue::make_capsule(processes);
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1], &mean = saved[2], &var = saved[3], &total = saved[4];
    const auto &kept_mean = saved[5], &kept_inverse = saved[6];
    auto epsilon = context->saved_data["epsilon"].toDouble();
    auto capsule = context->saved_data["processes"].toCapsule();
    auto processes = c10::static_intrusive_pointer_cast<c10d::ProcessGroup>(capsule);
    auto gradient = gradients[0].contiguous(input.suggest_memory_format());
    // As if the statistics did not depend on the images; the gradients of weight and bias are this rank's, which
    // DistributedDataParallel averages like all others.
    auto [by_input, by_weight, by_bias] = at::native_batch_norm_backward(
        gradient, input, weight, mean, var, kept_mean, kept_inverse, /* train */ false, epsilon, {true, true, true});
    auto sums = at::cat({by_bias, by_weight}).to(at::kDouble);
    sum(processes, sums);
    auto means = sums / total;
    auto channels = input.size(1);
    auto inverse = (var.to(at::kDouble) + epsilon).rsqrt();
    auto factor = weight.to(at::kDouble) * inverse;
    auto shift = (factor * means.slice(0, 0, channels)).to(mean.scalar_type());
    auto scale = (factor * inverse * means.slice(0, channels)).to(mean.scalar_type());
    // What the statistics' dependence on the images takes away.
    auto taken = (input - by_channel(mean)).mul_(by_channel(scale)).add_(by_channel(shift));
    auto result = (by_input - taken).to(by_input.scalar_type());
    at::Tensor none;
    return {result, by_weight, by_bias, none, none, none, none, none};
  }
};

} // namespace

using trainyard::edge;

extern "C" {

ty_status ty_group_share(ty_group* group, ty_group** out) {
  return edge([&] { *out = new ty_group{*group}; });
}

ty_status ty_sync_batch_norm(ty_group* group, ty_tensor* images, ty_batch_norm norm, ty_tensor** out) {
  return edge([&] {
    auto result = SyncBatchNorm::apply(*images, *norm.weight, *norm.bias, *norm.running_mean, *norm.running_var,
                                       norm.momentum, norm.epsilon, group->processes);
    *out = new at::Tensor(std::move(result));
  });
}

} // extern "C"
