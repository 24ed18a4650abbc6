// conv2d and the gradient of its input: contractions (contract.cuh) of patches with the weight, group by
// group, without a matrix of patches in memory.
#include "cuda/conv2d.cuh"
#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {
namespace {

// output[pixel][out] = sum over taps (in, kh, kw) of input[pixel * stride - pad + tap] * weight[out][tap]
template <class Stored>
void forward(const Conv2dShape& s, Format format, const void* input, const void* weight, const void* bias,
             void* output) {
  constexpr const char* kOp = "conv2d";
  check_positions(kOp, s);
  using Inputs = PixelRows<Stored, false>;
  Inputs inputs = patches<Inputs, Stored>(s, format, input, s.in_channels, s.group_in(), s.height, s.width,
                                          s.out_height, s.out_width);
  inputs.steps_adjacent = format == Format::kChannelsLast;
  const int64_t taps = weight_stride(s), plane = s.kernel_height * s.kernel_width;
  const Matrix<Stored> weights{static_cast<const Stored*>(weight), s.group_out() * taps, taps,
                               tap_levels(s, format, s.group_in(), plane), format == Format::kContiguous};
  const ImageStrides strides = image_strides(format, s.out_channels, s.out_height, s.out_width);
  launch_contract<Stored>(
      kOp, {s.groups, s.batch * s.out_height * s.out_width, s.group_out(), taps}, inputs, weights,
      Output<Stored>{static_cast<Stored*>(output), pixel_levels(strides, s.out_height, s.out_width),
                     strides.channel, s.group_out() * strides.channel, static_cast<const Stored*>(bias),
                     s.group_out()});
}

// grad_input[pixel][in] = sum over taps (out, kh, kw) of grad_output[(pixel + pad - tap) / stride] *
//                         weight[out][in][kh][kw]
template <class Stored>
void input_grad(const Conv2dShape& s, Format format, const void* grad_output, const void* weight,
                void* grad_input) {
  constexpr const char* kOp = "conv2d_input_grad";
  check_positions(kOp, s);
  using Grads = PixelRows<Stored, true>;
  Grads grads = patches<Grads, Stored>(s, format, grad_output, s.out_channels, s.group_out(), s.out_height,
                                       s.out_width, s.height, s.width);
  grads.steps_adjacent = format == Format::kChannelsLast;
  const int64_t plane = s.kernel_height * s.kernel_width;
  const Matrix<Stored> weights{static_cast<const Stored*>(weight), s.group_out() * weight_stride(s), plane,
                               tap_levels(s, format, s.group_out(), weight_stride(s)), false};
  const ImageStrides strides = image_strides(format, s.in_channels, s.height, s.width);
  launch_contract<Stored>(
      kOp, {s.groups, s.batch * s.height * s.width, s.group_in(), s.group_out() * plane}, grads, weights,
      Output<Stored>{static_cast<Stored*>(grad_input), pixel_levels(strides, s.height, s.width),
                     strides.channel, s.group_in() * strides.channel, nullptr, s.group_in()});
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels&) {
  typed.conv2d.forward = &forward<Stored>, typed.conv2d.input_grad = &input_grad<Stored>;
});

}  // namespace
}  // namespace lenet_ext::cuda
