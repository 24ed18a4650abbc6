// The gradients of conv2d's weight and bias: a contraction over all pixels of the batch, in splits.
#include "cuda/conv2d.cuh"
#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {
namespace {

// grad_weight[out][tap] = sum over pixels of input[pixel * stride - pad + tap] * grad_output[pixel][out]; the
// bias is the weight of one more tap, which always meets a 1.
template <class Stored>
void weight_grad(const Conv2dShape& s, Format format, const void* grad_output, const void* input,
                 void* grad_weight, void* grad_bias) {
  constexpr const char* kOp = "conv2d_weight_grad";
  check_positions(kOp, s);
  const int64_t taps = weight_stride(s), plane = s.kernel_height * s.kernel_width;
  using Inputs = TapRows<Stored>;
  Inputs inputs = patches<Inputs, Stored>(s, format, input, s.in_channels, s.group_in(), s.height, s.width,
                                          s.out_height, s.out_width);
  inputs.steps_adjacent = format == Format::kContiguous;
  inputs.ones_row = taps;
  const ImageStrides strides = image_strides(format, s.out_channels, s.out_height, s.out_width);
  const Matrix<Stored> grads{static_cast<const Stored*>(grad_output), s.group_out() * strides.channel,
                             strides.channel, pixel_levels(strides, s.out_height, s.out_width),
                             format == Format::kContiguous};
  WeightOutput<Stored> output{};
  output.weight = static_cast<Stored*>(grad_weight), output.bias = static_cast<Stored*>(grad_bias);
  output.rows = tap_levels(s, format, s.group_in(), plane), output.column_stride = taps;
  output.group_stride = s.group_out() * taps;
  output.bias_row = taps, output.group_columns = s.group_out();
  launch_contract_splits<Stored>(
      kOp, {s.groups, taps + (grad_bias != nullptr), s.group_out(), s.batch * s.out_height * s.out_width},
      inputs, grads, output);
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels&) {
  typed.conv2d.weight_grad = &weight_grad<Stored>;
});

}  // namespace
}  // namespace lenet_ext::cuda
