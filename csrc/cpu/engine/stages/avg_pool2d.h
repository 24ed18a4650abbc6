// avg_pool2d and adaptive_avg_pool2d in the fused engine.
#pragma once

#include "cpu/avg_pool2d/avg_pool2d.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class AvgPool2dStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  explicit AvgPool2dStage(const WindowPool2dShape& shape) : channels_(shape.channels), pool_(shape) {}

  void forward(const StageCall<T>& call) const override {
    pool_.forward(call.count * channels_, call.input(0), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    if (grad_inputs[0] != nullptr) pool_.backward(call.count * channels_, grad_output, grad_inputs[0]);
  }

 private:
  const int64_t channels_;
  const AvgPool2d<S> pool_;
};

}  // namespace lenet_ext::cpu
