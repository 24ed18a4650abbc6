// The weights of a convolution in the domain of F(4x4, 3x3), beside those that its direct sums take.
#pragma once

#include "cpu/conv2d/winograd_nested_plan.h"
#include "cpu/conv2d/winograd_nested_tile.h"
#include "cpu/conv2d/winograd_taps.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class NestedWinogradWeights {
  using T = typename S::Scalar;
  using Plan = NestedWinogradPlan<S>;

 public:
  explicit NestedWinogradWeights(const Plan& plan)
      : p_(plan),
        points_(plan.channels / plan.block_channels() * Plan::kPoints * plan.weight_step()),
        taps_(plan.shape, plan.channels, 2) {}

  // bias: (O) or null.
  void set(const T* weight, const T* bias, WinogradKernels kernels) {
    taps_.set(weight, bias, kernels);
    const int64_t vectors = p_.channels / S::width;
    parallel_for(p_.shape.in_channels, vectors * 100, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const T* const taps = taps_.data() + c * 9 * p_.channels;
        for (int64_t o = 0; o < p_.channels; o += S::width) {
          const int64_t place = c * p_.block_channels() + o % p_.block_channels();
          transform_nested_taps<S>(taps + o, p_.channels, points_.data() + block(o) + place,
                                   p_.weight_step());
        }
      }
    });
  }

  // Those of the block that begins with an output channel, [point][input channel][output channel of the block], the
  // points a step of the plan apart.
  const T* points(int64_t first_channel) const { return points_.data() + block(first_channel); }
  const WinogradTaps<S>& taps() const { return taps_; }

 private:
  int64_t block(int64_t channel) const {
    return channel / p_.block_channels() * Plan::kPoints * p_.weight_step();
  }

  const Plan& p_;
  Scratch<T> points_;
  WinogradTaps<S> taps_;
};

}  // namespace lenet_ext::cpu
