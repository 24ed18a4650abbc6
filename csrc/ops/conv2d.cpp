#include <torch/csrc/stable/library.h>

#include <optional>

#include "cpu/isa.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

using Ints = std::vector<int64_t>;

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

Tensor conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, Ints stride,
              Ints padding, Ints dilation, int64_t groups) {
  constexpr const char* kOp = "conv2d";
  const DType dtype = dtype_of(kOp, "input", input);
  check_same_dtype(kOp, "input", input, "weight", weight);
  const Conv2dShape shape =
      conv2d_shape(kOp, sizes_of(input), sizes_of(weight), {stride, padding, dilation, groups});
  if (bias) {
    check_same_dtype(kOp, "input", input, "bias", *bias);
    check_sizes(kOp, "bias", *bias, {shape.out_channels});
    bias = dense(*bias);
  }
  const Format format = format_of(input);
  const Tensor x = dense(input, format), w = dense(weight);
  Tensor output = empty({shape.batch, shape.out_channels, shape.out_height, shape.out_width}, x, format);
  if (output.numel() > 0) {
    cpu::kernels()[dtype].conv2d(shape, format, x.const_data_ptr(), w.const_data_ptr(), data_or_null(bias),
                                 output.mutable_data_ptr());
  }
  return output;
}

Tensor conv2d_input_grad(const Tensor& grad_output, const Tensor& weight, Ints input_size, Ints stride,
                         Ints padding, Ints dilation, int64_t groups) {
  constexpr const char* kOp = "conv2d_input_grad";
  const DType dtype = dtype_of(kOp, "grad_output", grad_output);
  check_same_dtype(kOp, "grad_output", grad_output, "weight", weight);
  const Ints grad_sizes = sizes_of(grad_output), weight_sizes = sizes_of(weight);
  check_4d(kOp, "grad_output", grad_sizes);
  check_4d(kOp, "weight", weight_sizes);
  check_parameter(kOp, "input_size", input_size, 2, 0);
  const int64_t in_channels = multiply_sizes(kOp, weight_sizes[1], groups > 0 ? groups : 1);
  const Conv2dShape shape = conv2d_shape(kOp, {grad_sizes[0], in_channels, input_size[0], input_size[1]},
                                         weight_sizes, {stride, padding, dilation, groups});
  check_sizes(kOp, "grad_output", grad_output,
              {shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const Format format = format_of(grad_output);
  const Tensor gy = dense(grad_output, format), w = dense(weight);
  Tensor grad_input = empty({shape.batch, shape.in_channels, shape.height, shape.width}, gy, format);
  if (grad_input.numel() > 0) {
    cpu::kernels()[dtype].conv2d_input_grad(shape, format, gy.const_data_ptr(), w.const_data_ptr(),
                                            grad_input.mutable_data_ptr());
  }
  return grad_input;
}

std::tuple<Tensor, Tensor> conv2d_weight_grad(const Tensor& grad_output, const Tensor& input,
                                              Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                                              int64_t groups, bool bias) {
  constexpr const char* kOp = "conv2d_weight_grad";
  const DType dtype = dtype_of(kOp, "input", input);
  check_same_dtype(kOp, "input", input, "grad_output", grad_output);
  const Ints grad_sizes = sizes_of(grad_output), input_sizes = sizes_of(input);
  check_4d(kOp, "grad_output", grad_sizes);
  check_4d(kOp, "input", input_sizes);
  check_parameter(kOp, "kernel_size", kernel_size, 2, 1);
  if (groups < 1 || input_sizes[1] % groups != 0) {
    fail(kOp, ": groups=", groups, " does not divide the ", input_sizes[1], " channels of input");
  }
  const Ints weight_sizes = {grad_sizes[1], input_sizes[1] / groups, kernel_size[0], kernel_size[1]};
  const Conv2dShape shape = conv2d_shape(kOp, input_sizes, weight_sizes, {stride, padding, dilation, groups});
  check_sizes(kOp, "grad_output", grad_output,
              {shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const Format format = format_of(input);
  const Tensor x = dense(input, format), gy = dense(grad_output, format);
  Tensor grad_weight = empty(weight_sizes, x), grad_bias = empty({bias ? shape.out_channels : 0}, x);
  cpu::kernels()[dtype].conv2d_weight_grad(shape, format, gy.const_data_ptr(), x.const_data_ptr(),
                                           grad_weight.mutable_data_ptr(),
                                           bias ? grad_bias.mutable_data_ptr() : nullptr);
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace lenet_ext

STABLE_TORCH_LIBRARY_FRAGMENT(lenet_ext, m) {
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, SymInt[4] padding, SymInt[2] "
      "dilation, "
      "SymInt groups) -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad_output, Tensor weight, SymInt[2] input_size, SymInt[2] stride, "
      "SymInt[4] padding, SymInt[2] dilation, SymInt groups) -> Tensor");
  m.def(
      "conv2d_weight_grad(Tensor grad_output, Tensor input, SymInt[2] kernel_size, SymInt[2] stride, "
      "SymInt[4] padding, SymInt[2] dilation, SymInt groups, bool bias) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lenet_ext, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&lenet_ext::conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&lenet_ext::conv2d_input_grad));
  m.impl("conv2d_weight_grad", TORCH_BOX(&lenet_ext::conv2d_weight_grad));
}
