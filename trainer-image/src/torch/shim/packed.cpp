// Convolutions prepared for inference on CPUs: weights in the layout that oneDNN computes with, an activation or a sum
// fused into them. The operators are those that PyTorch's own compiler emits for frozen networks; they have no header
// and are called by name.

#include <optional>

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

#include "edge.h"

using trainyard::edge;

namespace {

std::vector<int64_t> pair(int64_t value) {
  return {value, value};
}

c10::OperatorHandle named(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

c10::List<std::optional<at::Scalar>> no_scalars() {
  return c10::List<std::optional<at::Scalar>>();
}

c10::IValue text_or_none(const char* text) {
  return text == nullptr ? c10::IValue() : c10::IValue(text);
}

c10::IValue bias_or_none(const ty_tensor* bias) {
  return bias == nullptr ? c10::IValue() : c10::IValue(*bias);
}

} // namespace

extern "C" {

ty_status ty_packs(int kind, bool* out) {
  return edge([&] {
    auto ask = [](const char* name) {
      torch::jit::Stack stack;
      named(name).callBoxed(stack);
      return stack.at(0).toBool();
    };
    switch (static_cast<at::ScalarType>(kind)) {
      case at::kFloat: *out = at::hasMKLDNN(); break;
      case at::kBFloat16: *out = at::hasMKLDNN() && ask("mkldnn::_is_mkldnn_bf16_supported"); break;
      case at::kHalf: *out = at::hasMKLDNN() && ask("mkldnn::_is_mkldnn_fp16_supported"); break;
      default: *out = false;
    }
  });
}

ty_status ty_pack_conv(ty_tensor* weight, ty_conv_shape shape, const int64_t* input_size, ty_tensor** out) {
  return edge([&] {
    at::NoGradGuard no_grad;
    torch::jit::Stack stack{*weight,     pair(shape.padding), pair(shape.stride),
                            pair(1),     shape.groups,        std::vector<int64_t>(input_size, input_size + 4)};
    named("mkldnn::_reorder_convolution_weight").callBoxed(stack);
    *out = new at::Tensor(stack.at(0).toTensor());
  });
}

ty_status ty_packed_conv(ty_tensor* images, ty_tensor* weight, ty_tensor* bias, ty_conv_shape shape,
                         const char* activation, ty_tensor** out) {
  return edge([&] {
    at::NoGradGuard no_grad;
    torch::jit::Stack stack{*images, *weight, bias_or_none(bias), pair(shape.padding), pair(shape.stride),
                            pair(1), shape.groups, activation, no_scalars(), c10::IValue()};
    static const auto convolution = named("mkldnn::_convolution_pointwise");
    convolution.callBoxed(stack);
    *out = new at::Tensor(stack.at(0).toTensor());
  });
}

ty_status ty_packed_conv_add(ty_tensor* images, ty_tensor* weight, ty_tensor* bias, ty_conv_shape shape,
                             const char* activation, ty_tensor* sum, ty_tensor** out) {
  return edge([&] {
    at::NoGradGuard no_grad;
    torch::jit::Stack stack{*sum, *images, *weight, bias_or_none(bias), pair(shape.padding), pair(shape.stride),
                            pair(1), shape.groups, "add", at::Scalar(1.0), text_or_none(activation), no_scalars(),
                            c10::IValue()};
    static const auto convolution = named("mkldnn::_convolution_pointwise_", "binary");
    convolution.callBoxed(stack);
    *out = new at::Tensor(stack.at(0).toTensor());
  });
}

} // extern "C"
