// Dropout in the fused engine. A pass backward must be given the seed of its pass forward.
#pragma once

#include "cpu/dropout/dropout.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class DropoutStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // layer: a number that no other of the network has. channels, plane: as in Dropout.
  DropoutStage(int64_t channels, int64_t plane, double p, uint32_t layer)
      : dropout_(channels, plane, p, layer) {}

  void set_parameters(const StageParameters<T>& parameters) override { seed_ = parameters.seed; }

  void forward(const StageCall<T>& call) const override {
    dropout_.apply(seed_, call.first, call.count, call.input(0), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] == nullptr) return;
    dropout_.apply(seed_, call.first, call.count, grad_output, grad_inputs[0]);
  }

 private:
  const Dropout<S> dropout_;
  uint64_t seed_ = 0;
};

}  // namespace lenet_ext::cpu
