// permute, pad and slice in the fused engine.
#pragma once

#include "cpu/engine/stage_kernels.h"
#include "cpu/rearrange/rearrange.h"

namespace lenet_ext::cpu {

template <class S>
class RearrangeStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  explicit RearrangeStage(const Rearrangement& r) : forward_(r), backward_(r.inverse()) {}

  void forward(const StageCall<T>& call) const override {
    forward_.run(call.count, call.input(0), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] != nullptr) backward_.run(call.count, grad_output, grad_inputs[0]);
  }

 private:
  const Rearranger<S> forward_, backward_;
};

}  // namespace lenet_ext::cpu
