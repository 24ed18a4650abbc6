#include <optional>

#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

std::vector<int64_t> with_last(Sizes sizes, int64_t last) {
  std::vector<int64_t> changed(sizes.begin(), sizes.end());
  changed.back() = last;
  return changed;
}

Tensor linear(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias) {
  constexpr const char* kOp = "linear";
  const DType dtype = dtype_of(kOp, "input", input);
  const Backend kernels(kOp, input);
  check_same_kind(kOp, "input", input, "weight", weight);
  const Sizes weight_sizes = sizes_of(weight);
  const LinearShape shape = stacked_linear_shape(kOp, "input", sizes_of(input), weight_sizes, Side::kInput);
  if (bias) {
    check_same_kind(kOp, "input", input, "bias", *bias);
    check_sizes(kOp, "bias", *bias, weight_sizes.first(weight_sizes.size() - 1));
    bias = dense(*bias);
  }
  const Tensor x = dense(input), w = dense(weight);
  Tensor output = empty(with_last(sizes_of(input), shape.out_features), x);
  if (output.numel() > 0) {
    kernels[dtype].linear.forward(shape, x.const_data_ptr(), w.const_data_ptr(),
                                  bias ? bias->const_data_ptr() : nullptr, output.mutable_data_ptr());
  }
  return output;
}

Tensor linear_input_grad(const Tensor& grad_output, const Tensor& weight) {
  constexpr const char* kOp = "linear_input_grad";
  const DType dtype = dtype_of(kOp, "grad_output", grad_output);
  const Backend kernels(kOp, grad_output);
  check_same_kind(kOp, "grad_output", grad_output, "weight", weight);
  const LinearShape shape =
      stacked_linear_shape(kOp, "grad_output", sizes_of(grad_output), sizes_of(weight), Side::kOutput);
  const Tensor gy = dense(grad_output), w = dense(weight);
  Tensor grad_input = empty(with_last(sizes_of(grad_output), shape.in_features), gy);
  if (grad_input.numel() > 0) {
    kernels[dtype].linear.input_grad(shape, gy.const_data_ptr(), w.const_data_ptr(),
                                     grad_input.mutable_data_ptr());
  }
  return grad_input;
}

// `stacked`: the first dimension is of members with a weight each.
std::tuple<Tensor, Tensor> linear_weight_grad(const Tensor& grad_output, const Tensor& input, int64_t bias,
                                              int64_t stacked) {
  constexpr const char* kOp = "linear_weight_grad";
  const DType dtype = dtype_of(kOp, "input", input);
  const Backend kernels(kOp, input);
  check_same_kind(kOp, "input", input, "grad_output", grad_output);
  const Sizes input_sizes = sizes_of(input), grad_sizes = sizes_of(grad_output);
  const size_t least = stacked ? 2 : 1;
  if (input_sizes.size() < least || grad_sizes.size() < least)
    fail(kOp, ": input and grad_output must have at least ", least, stacked ? " dimensions" : " dimension");
  check_sizes(kOp, "grad_output", grad_output, with_last(input_sizes, grad_sizes.back()));
  std::vector<int64_t> weight_sizes{grad_sizes.back(), input_sizes.back()},
      bias_sizes{bias ? grad_sizes.back() : 0};
  if (stacked) {
    for (auto* sizes : {&weight_sizes, &bias_sizes}) sizes->insert(sizes->begin(), input_sizes[0]);
  }
  const LinearShape shape = stacked_linear_shape(kOp, "input", input_sizes, weight_sizes, Side::kInput);
  const Tensor x = dense(input), gy = dense(grad_output);
  Tensor grad_weight = empty(weight_sizes, x), grad_bias = empty(bias_sizes, x);
  kernels[dtype].linear.weight_grad(shape, gy.const_data_ptr(), x.const_data_ptr(),
                                    grad_weight.mutable_data_ptr(),
                                    bias ? grad_bias.mutable_data_ptr() : nullptr);
  return {grad_weight, grad_bias};
}

// All three at once, for the sake of one call instead of two.
std::tuple<Tensor, Tensor, Tensor> linear_grads(const Tensor& grad_output, const Tensor& input,
                                                const Tensor& weight, int64_t bias) {
  const Sizes weight_sizes = sizes_of(weight);
  stacked_linear_shape("linear_grads", "input", sizes_of(input), weight_sizes, Side::kInput);
  Tensor grad_input = linear_input_grad(grad_output, weight);
  auto [grad_weight, grad_bias] = linear_weight_grad(grad_output, input, bias, weight_sizes.size() == 3);
  return {grad_input, grad_weight, grad_bias};
}

// Flags are ints: torch's DTensor remembers what it found for an operator by its ints, not by its bools.
const Registration registration = {
    {"linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor", TORCH_BOX(&linear)},
    {"linear_input_grad(Tensor grad_output, Tensor weight) -> Tensor", TORCH_BOX(&linear_input_grad)},
    {"linear_weight_grad(Tensor grad_output, Tensor input, int bias, int stacked=0) -> (Tensor, Tensor)",
     TORCH_BOX(&linear_weight_grad)},
    {"linear_grads(Tensor grad_output, Tensor input, Tensor weight, int bias) -> (Tensor, Tensor, "
     "Tensor)",
     TORCH_BOX(&linear_grads)},
};

}  // namespace
}  // namespace lenet_ext
