// conv_transpose2d in the fused engine: the input gradient of a convolution with the same weight, to which a
// bias is added. So its own input gradient is that convolution, and its weight gradient that one's with the
// places of input and gradient exchanged.
#pragma once

#include <optional>

#include "cpu/batch_norm/folded.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/engine/stage_kernels.h"
#include "cpu/microkernels/lanes.h"

namespace lenet_ext::cpu {

template <class S>
class ConvTranspose2dStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // stage.conv is the convolution, from what this layer gives to what it reads. images: most images per call.
  // backward, input_grad: whether these will be asked for.
  ConvTranspose2dStage(const Stage& stage, int64_t images, bool backward, bool input_grad)
      : s_(of_batch(stage.conv, images)),
        weight_(stage.weight),
        bias_(stage.bias),
        forward_(s_, Format::kContiguous, Caller::kEngine) {
    if (stage.norm) folded_.emplace(*stage.norm, s_.in_channels);
    if (backward) weight_grad_.emplace(s_, Format::kContiguous, Caller::kEngine);
    if (backward && input_grad) input_grad_.emplace(s_, Format::kContiguous, Caller::kEngine);
  }

  void set_parameters(const StageParameters<T>& parameters) override {
    const T *weight = parameters.tensors[weight_], *bias = bias_ < 0 ? nullptr : parameters.tensors[bias_];
    if (folded_) {
      folded_->set_statistics(parameters.tensors);
      weight =
          folded_->transposed_weight(weight, s_.out_channels, s_.groups, s_.kernel_height * s_.kernel_width);
      bias = folded_->bias(bias);
    }
    forward_.set_weight(weight, bias);
    if (input_grad_) input_grad_->set_weights(weight, nullptr);
  }

  void forward(const StageCall<T>& call) const override {
    forward_.run(call.count, call.input(0), call.output);
  }

  int64_t sums_size() const override { return weight_size() + (bias_ < 0 ? 0 : s_.in_channels); }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    // First, since the sink may change the weight.
    if (grad_inputs[0] != nullptr) input_grad_->run(call.count, grad_output, grad_inputs[0]);
    if (sink.is_wanted()) {
      Scratch<T> gradients(sums_size());
      weight_grad_->run(call.input(0), grad_output, call.count, gradients.data(), nullptr);
      if (bias_ >= 0) bias_grad(call.count, grad_output, gradients.data() + weight_size());
      if (sink.takes_pieces()) {
        give(gradients.data(), sink);
      } else {
        add_row<S>(gradients.data(), sink.sums(), sums_size());
      }
    }
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override {
    if (sink.takes_pieces()) give(sums, sink);
  }

 private:
  static Conv2dShape of_batch(Conv2dShape conv, int64_t images) {
    conv.batch = std::max<int64_t>(images, 1);
    return conv;
  }
  int64_t weight_size() const { return s_.out_channels * s_.group_in() * s_.kernel_height * s_.kernel_width; }

  void bias_grad(int64_t images, const T* grad_output, T* gradient) const {
    const int64_t plane = s_.height * s_.width;
    std::fill_n(gradient, s_.in_channels, T(0));
    for (int64_t i = 0; i < images * s_.in_channels; ++i) {
      auto sum = S::zero();
      for_each_lanes<S>(plane, [&](int64_t at, const auto& load, const auto&) {
        sum = S::add(sum, load(grad_output + i * plane + at));
      });
      gradient[i % s_.in_channels] += S::reduce_add(sum);
    }
  }

  void give(const T* gradients, const GradientSink<T>& sink) const {
    sink.take({weight_, 0, weight_size(), gradients});
    if (bias_ >= 0) sink.take({bias_, 0, s_.in_channels, gradients + weight_size()});
  }

  const Conv2dShape s_;
  const int weight_, bias_;
  Conv2dInputGrad<S, T> forward_;
  std::optional<Conv2dForward<S, T>> input_grad_;
  std::optional<Conv2dWeightGrad<S, T>> weight_grad_;
  std::optional<Folded<T>> folded_;
};

}  // namespace lenet_ext::cpu
