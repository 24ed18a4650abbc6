// softmax and log_softmax in the fused engine.
#pragma once

#include "cpu/engine/stage_kernels.h"
#include "cpu/softmax/softmax.h"

namespace lenet_ext::cpu {

template <class S>
class SoftmaxStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  explicit SoftmaxStage(const SoftmaxShape& shape) : softmax_(shape) {}

  void forward(const StageCall<T>& call) const override {
    softmax_.forward(call.count, call.input(0), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] != nullptr) softmax_.backward(call.count, call.output, grad_output, grad_inputs[0]);
  }

 private:
  const Softmax<S> softmax_;
};

}  // namespace lenet_ext::cpu
