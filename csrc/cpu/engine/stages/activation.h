// An activation whose gradient needs its input, which is therefore kept.
#pragma once

#include "cpu/activation.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class ActivationStage final : public StageKernels<S> {
  using typename StageKernels<S>::T;

 public:
  // size: elements of one image.
  ActivationStage(const ActivationCall& activation, int64_t size) : activation_(activation), size_(size) {}

  void forward(const StageCall<T>& call) const override {
    activate<S>(activation_, call.count * size_, call.input(0), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] == nullptr) return;
    activation_grad<S>(activation_, call.count * size_, grad_output, call.input(0), grad_inputs[0]);
  }

 private:
  const ActivationCall activation_;
  const int64_t size_;
};

}  // namespace lenet_ext::cpu
