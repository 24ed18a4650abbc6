// adaptive_max_pool2d in the fused engine. An image leaves a 32-bit position in its plane for each output.
#pragma once

#include "cpu/adaptive_max_pool2d/adaptive_max_pool2d.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class AdaptiveMaxPool2dStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  explicit AdaptiveMaxPool2dStage(const WindowPool2dShape& shape) : s_(shape) {}

  void forward(const StageCall<T>& call) const override {
    adaptive_max_pool2d<S>(s_, call.count * s_.channels, call.input(0), call.output, argmax(call));
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] == nullptr) return;
    adaptive_max_pool2d_grad<S>(s_, call.count * s_.channels, grad_output, argmax(call), grad_inputs[0]);
  }

 private:
  static int32_t* argmax(const StageCall<T>& call) { return reinterpret_cast<int32_t*>(call.kept); }

  const WindowPool2dShape s_;
};

}  // namespace lenet_ext::cpu
