// prelu: x where x > 0, else weight x, with one weight for all or one for each channel.
#pragma once

#include <algorithm>

#include "cpu/engine/stage_kernels.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class PReluStage final : public StageKernels<S> {
  using typename StageKernels<S>::T;
  using V = typename S::Vector;

 public:
  explicit PReluStage(const Stage& stage)
      : s_(stage), channels_(s_.weight_size), plane_(s_.input_size / std::max<int64_t>(channels_, 1)) {}

  void set_parameters(const StageParameters<T>& parameters) override {
    weight_ = parameters.tensors[s_.weight];
  }

  void forward(const StageCall<T>& call) const override {
    const T* const x = call.input(0);
    for_each_vector_with_slope(call.count, [&](int64_t i, int n, int64_t, V slope) {
      const V v = S::load_partial(x + i, n);
      S::store_partial(call.output + i, S::select(S::positive(v), v, S::mul(v, slope)), n);
    });
  }

  int64_t sums_size() const override { return s_.weight_size; }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    const StageSums<T> sums(sink, sums_size());
    if (sums.data() != nullptr) add_weight_grad(call.count, call.input(0), grad_output, sums.data());
    if (grad_inputs[0] != nullptr) input_grad(call.count, call.input(0), grad_output, grad_inputs[0]);
    if (sink.takes_pieces()) sink.take({s_.weight, 0, s_.weight_size, sums.data()});
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override {
    sink.take({s_.weight, 0, s_.weight_size, sums});
  }

 private:
  // body(i, n, channel, slope) for vectors of n elements from i on, none of which crosses into a channel of
  // another weight, unless each channel is a single element: then `channel` is the first, and slope has those
  // of all.
  template <class Body>
  void for_each_vector_with_slope(int64_t images, const Body& body) const {
    for (int64_t image = 0; image < images; ++image) {
      const int64_t begin = image * s_.input_size;
      if (plane_ == 1) {
        for (int64_t c = 0; c < channels_; c += S::width) {
          const int n = static_cast<int>(std::min<int64_t>(S::width, channels_ - c));
          body(begin + c, n, c, S::load_partial(weight_ + c, n));
        }
        continue;
      }
      for (int64_t c = 0; c < channels_; ++c) {
        const V slope = S::broadcast(weight_[c]);
        for (int64_t i = 0; i < plane_; i += S::width) {
          const int n = static_cast<int>(std::min<int64_t>(S::width, plane_ - i));
          body(begin + c * plane_ + i, n, c, slope);
        }
      }
    }
  }

  void input_grad(int64_t images, const T* x, const T* grad_output, T* grad_input) const {
    for_each_vector_with_slope(images, [&](int64_t i, int n, int64_t, V slope) {
      const V grad = S::load_partial(grad_output + i, n);
      const typename S::Mask positive = S::positive(S::load_partial(x + i, n));
      S::store_partial(grad_input + i, S::select(positive, grad, S::mul(grad, slope)), n);
    });
  }

  void add_weight_grad(int64_t images, const T* x, const T* grad_output, T* sums) const {
    V sum = S::zero();
    int64_t summed = 0;  // the channel of `sum`
    for_each_vector_with_slope(images, [&](int64_t i, int n, int64_t channel, V) {
      const V v = S::load_partial(x + i, n), grad = S::load_partial(grad_output + i, n);
      const V product = S::select(S::positive(v), S::zero(), S::mul(v, grad));
      if (plane_ == 1) {
        S::store_partial(sums + channel, S::add(S::load_partial(sums + channel, n), product), n);
        return;
      }
      if (channel != summed) {
        sums[summed] += S::reduce_add(sum);
        sum = S::zero(), summed = channel;
      }
      sum = S::add(sum, product);
    });
    if (channels_ > 0) sums[summed] += S::reduce_add(sum);
  }

  const Stage& s_;
  const int64_t channels_, plane_;  // a single weight is that of one channel
  const T* weight_ = nullptr;
};

}  // namespace lenet_ext::cpu
