// The weights of a convolution in the Winograd domain, beside those that its direct sums take.
#pragma once

#include "cpu/conv2d/winograd.h"
#include "cpu/conv2d/winograd_plan.h"
#include "cpu/conv2d/winograd_taps.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class WinogradWeights {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr int kWidth = S::width;

 public:
  explicit WinogradWeights(const WinogradPlan<S>& plan)
      : p_(plan), points_(p_.points * step()), taps_(p_.shape, p_.channels, p_.points) {}

  // bias: (O) or null.
  template <class W>
  void set(const T* weight, const T* bias, WinogradKernels kernels) {
    taps_.set(weight, bias, kernels);
    const Conv2dShape& s = p_.shape;
    const T* row = taps_.data();
    for (int64_t c = 0; c < s.in_channels; ++c, row += (p_.taps - 1) * tap_step()) {
      for (int64_t phase = 0; phase < s.stride_h; ++phase, row += s.kernel_width * p_.channels) {
        transform<W>(row, (c * s.stride_h + phase) * s.kernel_width);
      }
    }
  }

  const T* point(int64_t i) const { return points_.data() + i * step(); }
  int64_t step() const { return p_.terms * p_.channels; }  // from point to point
  const WinogradTaps<S>& taps() const { return taps_; }

 private:
  // From a row of a phase to the next one.
  int64_t tap_step() const { return p_.shape.stride_h * p_.shape.kernel_width * p_.channels; }

  // Of one phase of one input channel, [kh][kw][output channel] from its first row, to [point][block of
  // channels][term][output channel of the block]. first_term: of the phase.
  template <class W>
  void transform(const T* taps, int64_t first_term) {
    const int64_t block = p_.lanes_are_channels ? p_.tile_vectors * kWidth : p_.channels;
    for (int64_t kw = 0; kw < p_.shape.kernel_width; ++kw, taps += p_.channels) {
      for (int64_t o = 0; o < p_.channels; o += kWidth) {
        V g[W::kTaps], u[W::kPoints];
        const int64_t place = (o / block * p_.terms + first_term + kw) * block + o % block;
#pragma GCC unroll 8
        for (int i = 0; i < W::kTaps; ++i) g[i] = S::load(taps + i * tap_step() + o);
        W::transform_taps(g, u);
#pragma GCC unroll 8
        for (int i = 0; i < W::kPoints; ++i) S::store(points_.data() + i * step() + place, u[i]);
      }
    }
  }

  const WinogradPlan<S>& p_;
  Scratch<T> points_;
  WinogradTaps<S> taps_;
};

}  // namespace lenet_ext::cpu
