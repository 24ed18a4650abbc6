// A stage of any kind, followed by an activation whose gradient comes from its output: in place.
#pragma once

#include "activation.h"
#include "cpu/activation.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

template <class S>
class ActivatedStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // output_size: elements of one image.
  ActivatedStage(std::unique_ptr<StageKernels<S>> stage, const ActivationCall& activation,
                 int64_t output_size)
      : stage_(std::move(stage)), activation_(activation), output_size_(output_size) {}

  void set_parameters(const StageParameters<T>& parameters) override { stage_->set_parameters(parameters); }

  void forward(const StageCall<T>& call) const override {
    stage_->forward(call);
    activate<S>(activation_, call.count * output_size_, call.output, call.output);
  }

  int64_t sums_size() const override { return stage_->sums_size(); }
  // The stage itself has no use for its output.
  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    activation_grad<S>(activation_, call.count * output_size_, grad_output, call.output, grad_output);
    stage_->backward(call, grad_output, grad_inputs, sink);
  }
  void finish_sums(const T* sums, const GradientSink<T>& sink) override { stage_->finish_sums(sums, sink); }

 private:
  const std::unique_ptr<StageKernels<S>> stage_;
  const ActivationCall activation_;
  const int64_t output_size_;
};

}  // namespace lenet_ext::cpu
