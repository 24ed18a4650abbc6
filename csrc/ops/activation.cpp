#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"
#include "ops/text.h"

namespace lenet_ext {
namespace {

constexpr ActivationCall kReLU{Activation::kReLU};

ActivationCall activation_named(const char* op, std::string_view name, const std::vector<double>& options) {
  for (size_t i = 1; i < std::size(kActivations); ++i) {
    const ActivationInfo& info = kActivations[i];
    if (name != info.name) continue;
    if (options.size() != static_cast<size_t>(info.options)) {
      fail(op, ": ", name, " has ", info.options, " options, got ", options.size());
    }
    ActivationCall call{static_cast<Activation>(i)};
    std::ranges::copy(options, call.options);
    return call;
  }
  fail(op, ": there is no activation of the name \"", name, "\"");
}

// The memory is worked on as it lies: any dense 4-D format is kept, other strides are copied first.
Tensor activated(const char* op, const ActivationCall& call, const Tensor& input) {
  const DType dtype = dtype_of(op, "input", input);
  const Backend kernels(op, input);
  const Format format = format_of(input);
  const Tensor x = dense(input, format);
  Tensor output = empty(sizes_of(x), x, format);
  kernels[dtype].activation.forward(call, x.numel(), x.const_data_ptr(), output.mutable_data_ptr());
  return output;
}

Tensor input_grad(const char* op, const ActivationCall& call, const Tensor& grad_output,
                  const char* saved_name, const Tensor& saved) {
  const DType dtype = dtype_of(op, saved_name, saved);
  const Backend kernels(op, saved);
  check_same_kind(op, saved_name, saved, "grad_output", grad_output);
  check_sizes(op, "grad_output", grad_output, sizes_of(saved));
  const Format format = format_of(saved);
  const Tensor s = dense(saved, format), gy = dense(grad_output, format);
  Tensor grad_input = empty(sizes_of(s), s, format);
  kernels[dtype].activation.input_grad(call, s.numel(), gy.const_data_ptr(), s.const_data_ptr(),
                                       grad_input.mutable_data_ptr());
  return grad_input;
}

Tensor relu(const Tensor& input) {
  return activated("relu", kReLU, input);
}

Tensor relu_grad(const Tensor& grad_output, const Tensor& output) {
  return input_grad("relu_grad", kReLU, grad_output, "output", output);
}

// Of the engine's activations, by name.
Tensor activation(const Tensor& input, const Text& name, std::vector<double> options) {
  return activated("activation", activation_named("activation", name, options), input);
}

// saved: the output or, for what gradient_from_output says no to, the input.
Tensor activation_grad(const Tensor& grad_output, const Tensor& saved, const Text& name,
                       std::vector<double> options) {
  const ActivationCall call = activation_named("activation_grad", name, options);
  return input_grad("activation_grad", call, grad_output, "saved", saved);
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
  kernels[dtype].activation.forward(kReLU, x.numel(), x.const_data_ptr(), x.mutable_data_ptr());
  if (x.data_ptr() != input.data_ptr()) copy(input, x);
}

const Registration registration = {
    {"relu(Tensor input) -> Tensor", TORCH_BOX(&relu)},
    {"relu_(Tensor(a!) input) -> ()", TORCH_BOX(&relu_)},
    {"relu_grad(Tensor grad_output, Tensor output) -> Tensor", TORCH_BOX(&relu_grad)},
    {"activation(Tensor input, str name, float[] options) -> Tensor", TORCH_BOX(&activation)},
    {"activation_grad(Tensor grad_output, Tensor saved, str name, float[] options) -> Tensor",
     TORCH_BOX(&activation_grad)},
};

}  // namespace
}  // namespace lenet_ext
