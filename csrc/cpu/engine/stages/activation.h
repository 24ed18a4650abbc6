// An activation whose gradient needs its input, which is therefore kept; then perhaps another one.
#pragma once

#include "cpu/activation.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class ActivationStage final : public StageKernels<S> {
  using typename StageKernels<S>::T;

 public:
  explicit ActivationStage(const Stage& stage) : s_(stage), own_(activation_of(stage.layer)) {}

  void forward(const StageCall<T>& call) const override {
    const int64_t size = call.count * s_.output_size;
    activate<S>(own_, size, call.inputs[0], call.output);
    activate<S>(s_.activation, size, call.output, call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] == nullptr) return;
    const int64_t size = call.count * s_.output_size;
    activation_grad<S>(s_.activation, size, grad_output, call.output, grad_output);
    activation_grad<S>(own_, size, grad_output, call.inputs[0], grad_inputs[0]);
  }

 private:
  const Stage& s_;
  const ActivationCall own_;
};

}  // namespace lenet_ext::cpu
