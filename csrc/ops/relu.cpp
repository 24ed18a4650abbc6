#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

// relu works on the memory as it lies: any dense 4-D format is kept, other strides are copied first.
Tensor relu(const Tensor& input) {
  const DType dtype = dtype_of("relu", "input", input);
  const Backend kernels("relu", input);
  const Format format = format_of(input);
  const Tensor x = dense(input, format);
  Tensor output = empty(sizes_of(x), x, format);
  kernels[dtype].activation.forward(Activation::kReLU, x.numel(), x.const_data_ptr(),
                                    output.mutable_data_ptr());
  return output;
}

// As torch, which looks no further either.
void check_not_expanded(const char* op, const char* name, const Tensor& tensor) {
  const Sizes sizes = sizes_of(tensor), strides = strides_of(tensor);
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] > 1 && strides[i] == 0) {
      fail(op, ": ", name, " must have a place in memory for each element, but dimension ", i,
           " is expanded: clone it first");
    }
  }
}

void relu_(const Tensor& input) {
  const DType dtype = dtype_of("relu_", "input", input);
  const Backend kernels("relu_", input);
  check_not_expanded("relu_", "input", input);
  const Tensor x = dense(input, format_of(input));
  kernels[dtype].activation.forward(Activation::kReLU, x.numel(), x.const_data_ptr(), x.mutable_data_ptr());
  if (x.data_ptr() != input.data_ptr()) copy(input, x);
}

Tensor relu_grad(const Tensor& grad_output, const Tensor& output) {
  const DType dtype = dtype_of("relu_grad", "output", output);
  const Backend kernels("relu_grad", output);
  check_same_kind("relu_grad", "output", output, "grad_output", grad_output);
  check_sizes("relu_grad", "grad_output", grad_output, sizes_of(output));
  const Format format = format_of(output);
  const Tensor y = dense(output, format), gy = dense(grad_output, format);
  Tensor grad_input = empty(sizes_of(y), y, format);
  kernels[dtype].activation.input_grad(Activation::kReLU, y.numel(), gy.const_data_ptr(), y.const_data_ptr(),
                                       grad_input.mutable_data_ptr());
  return grad_input;
}

const Registration registration = {
    {"relu(Tensor input) -> Tensor", TORCH_BOX(&relu)},
    {"relu_(Tensor(a!) input) -> ()", TORCH_BOX(&relu_)},
    {"relu_grad(Tensor grad_output, Tensor output) -> Tensor", TORCH_BOX(&relu_grad)},
};

}  // namespace
}  // namespace lenet_ext
