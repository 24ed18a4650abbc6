// The schemas of all operators. Sizes are numbers one by one: torch needs much longer to hand over a list.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(lenet_ext, m) {
  // csrc/ops/conv2d.cpp
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt stride_h, SymInt stride_w, SymInt pad_top, "
      "SymInt pad_bottom, SymInt pad_left, SymInt pad_right, SymInt dilation_h, SymInt dilation_w, "
      "SymInt groups) -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad_output, Tensor weight, SymInt in_height, SymInt in_width, "
      "SymInt stride_h, SymInt stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, "
      "SymInt pad_right, SymInt dilation_h, SymInt dilation_w, SymInt groups) -> Tensor");
  m.def(
      "conv2d_weight_grad(Tensor grad_output, Tensor input, SymInt kernel_height, SymInt kernel_width, "
      "SymInt stride_h, SymInt stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, "
      "SymInt pad_right, SymInt dilation_h, SymInt dilation_w, SymInt groups, bool bias) "
      "-> (Tensor, Tensor)");
  m.def(
      "conv2d_grads(Tensor grad_output, Tensor input, Tensor weight, SymInt stride_h, SymInt stride_w, "
      "SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt pad_right, SymInt dilation_h, "
      "SymInt dilation_w, SymInt groups, bool bias) -> (Tensor, Tensor, Tensor)");

  // csrc/ops/linear.cpp
  m.def("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  m.def("linear_input_grad(Tensor grad_output, Tensor weight) -> Tensor");
  m.def(
      "linear_weight_grad(Tensor grad_output, Tensor input, bool bias, bool stacked=False) -> (Tensor, "
      "Tensor)");
  m.def(
      "linear_grads(Tensor grad_output, Tensor input, Tensor weight, bool bias) -> (Tensor, Tensor, Tensor)");

  // csrc/ops/max_pool2d.cpp
  m.def(
      "max_pool2d(Tensor input, SymInt kernel_height, SymInt kernel_width, SymInt stride_h, SymInt stride_w, "
      "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, bool ceil_mode, "
      "bool return_argmax) -> (Tensor, Tensor)");
  m.def(
      "max_pool2d_indices(Tensor argmax, SymInt in_height, SymInt in_width, SymInt kernel_height, "
      "SymInt kernel_width, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, "
      "SymInt dilation_h, SymInt dilation_w) -> Tensor");
  m.def(
      "max_pool2d_input_grad(Tensor grad_output, Tensor argmax, SymInt in_height, SymInt in_width, "
      "SymInt kernel_height, SymInt kernel_width, SymInt stride_h, SymInt stride_w, SymInt pad_h, "
      "SymInt pad_w, SymInt dilation_h, SymInt dilation_w) -> Tensor");

  // csrc/ops/relu.cpp
  m.def("relu(Tensor input) -> Tensor");
  m.def("relu_(Tensor(a!) input) -> ()");
  m.def("relu_grad(Tensor grad_output, Tensor output) -> Tensor");

  // csrc/ops/network.cpp
  m.def("net(Tensor input, Tensor[] parameters, int[] program, Tensor? normalization) -> Tensor");
  m.def(
      "net_forward(Tensor input, Tensor[] parameters, int[] program, Tensor? normalization) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "net_backward(Tensor grad_output, Tensor input, Tensor[] parameters, Tensor saved, Tensor taps, int[] "
      "program, Tensor? normalization, bool input_grad, bool parameter_grads) -> Tensor[]");
  m.def(
      "net_train(Tensor images, Tensor targets, Tensor? order, Tensor(a!)[] parameters, Tensor(b!)? buffers, "
      "int[] program, Tensor? normalization, int batch_size, float lr, float momentum, float weight_decay, "
      "bool nesterov, int loss, Tensor? device_lr=None) -> Tensor");
}
