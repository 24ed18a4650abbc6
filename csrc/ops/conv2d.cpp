#include <optional>

#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

Tensor conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, int64_t stride_h,
              int64_t stride_w, int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right,
              int64_t dilation_h, int64_t dilation_w, int64_t groups) {
  constexpr const char* kOp = "conv2d";
  const DType dtype = dtype_of(kOp, "input", input);
  const Backend kernels(kOp, input);
  check_same_kind(kOp, "input", input, "weight", weight);
  const Conv2dShape shape = conv2d_shape(
      kOp, sizes_of(input), sizes_of(weight),
      {stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups});
  if (bias) {
    check_same_kind(kOp, "input", input, "bias", *bias);
    check_sizes(kOp, "bias", *bias, std::array{shape.out_channels});
    bias = dense(*bias);
  }
  const Format format = format_of(input);
  const Tensor x = dense(input, format), w = dense(weight);
  Tensor output =
      empty(std::array{shape.batch, shape.out_channels, shape.out_height, shape.out_width}, x, format);
  if (output.numel() > 0) {
    kernels[dtype].conv2d.forward(shape, format, x.const_data_ptr(), w.const_data_ptr(), data_or_null(bias),
                                  output.mutable_data_ptr());
  }
  return output;
}

Tensor conv2d_input_grad(const Tensor& grad_output, const Tensor& weight, int64_t in_height, int64_t in_width,
                         int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_bottom,
                         int64_t pad_left, int64_t pad_right, int64_t dilation_h, int64_t dilation_w,
                         int64_t groups) {
  constexpr const char* kOp = "conv2d_input_grad";
  const DType dtype = dtype_of(kOp, "grad_output", grad_output);
  const Backend kernels(kOp, grad_output);
  check_same_kind(kOp, "grad_output", grad_output, "weight", weight);
  const Sizes grad_sizes = sizes_of(grad_output), weight_sizes = sizes_of(weight);
  check_4d(kOp, "grad_output", grad_sizes);
  check_4d(kOp, "weight", weight_sizes);
  check_parameter(kOp, "in_height", in_height, 0);
  check_parameter(kOp, "in_width", in_width, 0);
  const int64_t in_channels = multiply_sizes(kOp, weight_sizes[1], groups > 0 ? groups : 1);
  const Conv2dShape shape = conv2d_shape(
      kOp, std::array{grad_sizes[0], in_channels, in_height, in_width}, weight_sizes,
      {stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups});
  check_sizes(kOp, "grad_output", grad_output,
              std::array{shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const Format format = format_of(grad_output);
  const Tensor gy = dense(grad_output, format), w = dense(weight);
  Tensor grad_input =
      empty(std::array{shape.batch, shape.in_channels, shape.height, shape.width}, gy, format);
  if (grad_input.numel() > 0) {
    kernels[dtype].conv2d.input_grad(shape, format, gy.const_data_ptr(), w.const_data_ptr(),
                                     grad_input.mutable_data_ptr());
  }
  return grad_input;
}

std::tuple<Tensor, Tensor> conv2d_weight_grad(const Tensor& grad_output, const Tensor& input,
                                              int64_t kernel_height, int64_t kernel_width, int64_t stride_h,
                                              int64_t stride_w, int64_t pad_top, int64_t pad_bottom,
                                              int64_t pad_left, int64_t pad_right, int64_t dilation_h,
                                              int64_t dilation_w, int64_t groups, bool bias) {
  constexpr const char* kOp = "conv2d_weight_grad";
  const DType dtype = dtype_of(kOp, "input", input);
  const Backend kernels(kOp, input);
  check_same_kind(kOp, "input", input, "grad_output", grad_output);
  const Sizes grad_sizes = sizes_of(grad_output), input_sizes = sizes_of(input);
  check_4d(kOp, "grad_output", grad_sizes);
  check_4d(kOp, "input", input_sizes);
  check_parameter(kOp, "kernel_height", kernel_height, 1);
  check_parameter(kOp, "kernel_width", kernel_width, 1);
  if (groups < 1 || input_sizes[1] % groups != 0) {
    fail(kOp, ": groups=", groups, " does not divide the ", input_sizes[1], " channels of input");
  }
  const std::array weight_sizes = {grad_sizes[1], input_sizes[1] / groups, kernel_height, kernel_width};
  const Conv2dShape shape = conv2d_shape(
      kOp, input_sizes, weight_sizes,
      {stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups});
  check_sizes(kOp, "grad_output", grad_output,
              std::array{shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const Format format = format_of(input);
  const Tensor x = dense(input, format), gy = dense(grad_output, format);
  Tensor grad_weight = empty(weight_sizes, x),
         grad_bias = empty(std::array{bias ? shape.out_channels : 0}, x);
  kernels[dtype].conv2d.weight_grad(shape, format, gy.const_data_ptr(), x.const_data_ptr(),
                                    grad_weight.mutable_data_ptr(),
                                    bias ? grad_bias.mutable_data_ptr() : nullptr);
  return {grad_weight, grad_bias};
}

// All three at once, for the sake of one call instead of two.
std::tuple<Tensor, Tensor, Tensor> conv2d_grads(const Tensor& grad_output, const Tensor& input,
                                                const Tensor& weight, int64_t stride_h, int64_t stride_w,
                                                int64_t pad_top, int64_t pad_bottom, int64_t pad_left,
                                                int64_t pad_right, int64_t dilation_h, int64_t dilation_w,
                                                int64_t groups, bool bias) {
  constexpr const char* kOp = "conv2d_grads";
  const Sizes input_sizes = sizes_of(input), weight_sizes = sizes_of(weight);
  check_4d(kOp, "input", input_sizes);
  check_4d(kOp, "weight", weight_sizes);
  if (input_sizes[1] != multiply_sizes(kOp, weight_sizes[1], groups > 0 ? groups : 1)) {
    fail(kOp, ": weight has ", weight_sizes[1], " input channels per group, but input has ", input_sizes[1],
         " channels and groups=", groups);
  }
  Tensor grad_input =
      conv2d_input_grad(grad_output, weight, input_sizes[2], input_sizes[3], stride_h, stride_w, pad_top,
                        pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups);
  auto [grad_weight, grad_bias] =
      conv2d_weight_grad(grad_output, input, weight_sizes[2], weight_sizes[3], stride_h, stride_w, pad_top,
                         pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups, bias);
  return {grad_input, grad_weight, grad_bias};
}

const Registration registration = {
    {"conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt stride_h, SymInt stride_w, SymInt "
     "pad_top, SymInt pad_bottom, SymInt pad_left, SymInt pad_right, SymInt dilation_h, SymInt "
     "dilation_w, SymInt groups) -> Tensor",
     TORCH_BOX(&conv2d)},
    {"conv2d_input_grad(Tensor grad_output, Tensor weight, SymInt in_height, SymInt in_width, SymInt "
     "stride_h, SymInt stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt pad_right, "
     "SymInt dilation_h, SymInt dilation_w, SymInt groups) -> Tensor",
     TORCH_BOX(&conv2d_input_grad)},
    {"conv2d_weight_grad(Tensor grad_output, Tensor input, SymInt kernel_height, SymInt kernel_width, "
     "SymInt stride_h, SymInt stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt "
     "pad_right, SymInt dilation_h, SymInt dilation_w, SymInt groups, bool bias) -> (Tensor, Tensor)",
     TORCH_BOX(&conv2d_weight_grad)},
    {"conv2d_grads(Tensor grad_output, Tensor input, Tensor weight, SymInt stride_h, SymInt stride_w, "
     "SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt pad_right, SymInt dilation_h, SymInt "
     "dilation_w, SymInt groups, bool bias) -> (Tensor, Tensor, Tensor)",
     TORCH_BOX(&conv2d_grads)},
};

}  // namespace
}  // namespace lenet_ext
