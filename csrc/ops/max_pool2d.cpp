#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

Tensor empty_argmax(const MaxPool2dShape& s, const Tensor& like, Format format) {
  return empty(s.byte_argmax() ? aoti_torch_dtype_uint8() : aoti_torch_dtype_int32(),
               std::array{s.batch, s.channels, s.out_height, s.out_width}, like, format);
}

// (output, argmax): the latter is the tap where each maximum lies, or empty if not asked for.
std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, int64_t kernel_height, int64_t kernel_width,
                                      int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                                      int64_t dilation_h, int64_t dilation_w, bool ceil_mode,
                                      bool return_argmax) {
  const char* op = "max_pool2d";
  const DType dtype = dtype_of(op, "input", input);
  const Backend kernels(op, input);
  const MaxPool2dShape s = max_pool2d_shape(
      op, sizes_of(input),
      {kernel_height, kernel_width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w}, ceil_mode);
  const Format format = format_of(input);
  const Tensor x = dense(input, format);
  Tensor output = empty(std::array{s.batch, s.channels, s.out_height, s.out_width}, x, format);
  Tensor argmax = return_argmax
                      ? empty_argmax(s, x, format)
                      : empty(aoti_torch_dtype_uint8(), std::array{int64_t{0}}, x, Format::kContiguous);
  kernels[dtype].max_pool2d.forward(s, format, x.const_data_ptr(), output.mutable_data_ptr(),
                                    return_argmax ? argmax.mutable_data_ptr() : nullptr);
  return {output, argmax};
}

// The shape that belongs to the pooled sizes (N, C, OH, OW): of one or the other ceil_mode.
MaxPool2dShape shape_of_pooled(const char* op, const char* name, Sizes pooled, int64_t in_height,
                               int64_t in_width, const MaxPool2dParameters& p) {
  check_4d(op, name, pooled);
  const std::array input_sizes = {pooled[0], pooled[1], in_height, in_width};
  // ceil_mode never has fewer windows, so it tells first whether the arguments are sound.
  const MaxPool2dShape ceiled = max_pool2d_shape(op, input_sizes, p, true);
  if (ceiled.out_height == pooled[2] && ceiled.out_width == pooled[3]) return ceiled;
  const MaxPool2dShape s = max_pool2d_shape(op, input_sizes, p, false);
  if (s.out_height != pooled[2] || s.out_width != pooled[3]) {
    fail(op, ": ", name, " must have the sizes ",
         to_string(std::array{s.batch, s.channels, s.out_height, s.out_width}), " for an input of ",
         in_height, " x ", in_width, ", got ", to_string(pooled));
  }
  return s;
}

void check_argmax(const char* op, const MaxPool2dShape& s, const Tensor& argmax) {
  const ScalarType wanted = s.byte_argmax() ? ScalarType::Byte : ScalarType::Int;
  if (argmax.scalar_type() != wanted) {
    fail(op, ": argmax must be ", torch::headeronly::toString(wanted), " for a kernel of ", s.kernel_height,
         " x ", s.kernel_width, ", got ", torch::headeronly::toString(argmax.scalar_type()));
  }
}

Tensor max_pool2d_indices(const Tensor& argmax, int64_t in_height, int64_t in_width, int64_t kernel_height,
                          int64_t kernel_width, int64_t stride_h, int64_t stride_w, int64_t pad_h,
                          int64_t pad_w, int64_t dilation_h, int64_t dilation_w) {
  const char* op = "max_pool2d_indices";
  const MaxPool2dShape s = shape_of_pooled(
      op, "argmax", sizes_of(argmax), in_height, in_width,
      {kernel_height, kernel_width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  check_argmax(op, s, argmax);
  const Backend kernels(op, argmax);
  const Format format = format_of(argmax);
  const Tensor dense_argmax = dense(argmax, format);
  Tensor indices = empty(aoti_torch_dtype_int64(), sizes_of(dense_argmax), dense_argmax, format);
  kernels.of_any_dtype().max_pool2d_indices(s, format, dense_argmax.const_data_ptr(),
                                            static_cast<int64_t*>(indices.mutable_data_ptr()));
  return indices;
}

Tensor max_pool2d_input_grad(const Tensor& grad_output, const Tensor& argmax, int64_t in_height,
                             int64_t in_width, int64_t kernel_height, int64_t kernel_width, int64_t stride_h,
                             int64_t stride_w, int64_t pad_h, int64_t pad_w, int64_t dilation_h,
                             int64_t dilation_w) {
  const char* op = "max_pool2d_input_grad";
  const DType dtype = dtype_of(op, "grad_output", grad_output);
  const Backend kernels(op, grad_output);
  const MaxPool2dShape s = shape_of_pooled(
      op, "grad_output", sizes_of(grad_output), in_height, in_width,
      {kernel_height, kernel_width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  check_argmax(op, s, argmax);
  check_same_device(op, "grad_output", grad_output, "argmax", argmax);
  check_sizes(op, "argmax", argmax, sizes_of(grad_output));
  const Format format = format_of(grad_output);
  const Tensor gy = dense(grad_output, format), dense_argmax = dense(argmax, format);
  Tensor grad_input = empty(std::array{s.batch, s.channels, s.height, s.width}, gy, format);
  kernels[dtype].max_pool2d.input_grad(s, format, gy.const_data_ptr(), dense_argmax.const_data_ptr(),
                                       grad_input.mutable_data_ptr());
  return grad_input;
}

const Registration registration = {
    {"max_pool2d(Tensor input, SymInt kernel_height, SymInt kernel_width, SymInt stride_h, SymInt "
     "stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, bool ceil_mode, bool "
     "return_argmax) -> (Tensor, Tensor)",
     TORCH_BOX(&max_pool2d)},
    {"max_pool2d_indices(Tensor argmax, SymInt in_height, SymInt in_width, SymInt kernel_height, "
     "SymInt kernel_width, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt "
     "dilation_h, SymInt dilation_w) -> Tensor",
     TORCH_BOX(&max_pool2d_indices)},
    {"max_pool2d_input_grad(Tensor grad_output, Tensor argmax, SymInt in_height, SymInt in_width, "
     "SymInt kernel_height, SymInt kernel_width, SymInt stride_h, SymInt stride_w, SymInt pad_h, "
     "SymInt pad_w, SymInt dilation_h, SymInt dilation_w) -> Tensor",
     TORCH_BOX(&max_pool2d_input_grad)},
};

}  // namespace
}  // namespace lenet_ext
