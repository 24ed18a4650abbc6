// Group norm, instance norm and layer norm in the fused engine.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/engine/stage_kernels.h"
#include "cpu/image_norm/normalize.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class ImageNormStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // parameters: the weight and the bias, as far as there are any.
  ImageNormStage(const ImageNormShape& shape, const SizeList& parameters)
      : s_(shape), parameters_(parameters), ones_(s_.weights, T(1)), zeros_(s_.weights, T(0)) {}

  void set_parameters(const StageParameters<T>& parameters) override {
    weight_ = parameters_.empty() ? ones_.data() : parameters.tensors[parameters_[0]];
    bias_ = parameters_.size() < 2 ? zeros_.data() : parameters.tensors[parameters_[1]];
  }

  void forward(const StageCall<T>& call) const override {
    image_normalize<S>(s_, call.count, weight_, bias_, call.input(0), call.output);
  }

  // Of the bias, then of the weight.
  int64_t sums_size() const override { return parameters_.empty() ? 0 : 2 * s_.weights; }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    const StageSums<T> own(sink, sums_size());
    T* const sums = sums_size() > 0 ? own.data() : nullptr;
    if (sums == nullptr && grad_inputs[0] == nullptr) return;
    image_normalize_grad<S>(s_, call.count, weight_, call.input(0), grad_output, sums, grad_inputs[0]);
    if (sink.takes_pieces()) finish(sums, sink);
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override { finish(sums, sink); }

 private:
  void finish(const T* sums, const GradientSink<T>& sink) const {
    if (parameters_.size() > 1) sink.take({static_cast<int>(parameters_[1]), 0, s_.weights, sums});
    if (!parameters_.empty()) sink.take({static_cast<int>(parameters_[0]), 0, s_.weights, sums + s_.weights});
  }

  const ImageNormShape s_;
  const SizeList parameters_;
  const std::vector<T> ones_, zeros_;
  const T *weight_ = nullptr, *bias_ = nullptr;
};

}  // namespace lenet_ext::cpu
