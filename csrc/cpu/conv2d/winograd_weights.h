// The weights of a convolution in the Winograd domain, as they are for DirectRows, and what they allow.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/conv2d/winograd.h"
#include "cpu/conv2d/winograd_guard.h"
#include "cpu/conv2d/winograd_plan.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// Which kernels the weights hold.
enum class WinogradKernels {
  kPlain,   // (O, C, KH, KW): those of the convolution
  kTurned,  // (C, O, KH, KW), turned round: those of the convolution whose input gradient this one is
};

template <class S>
class WinogradWeights {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr int kWidth = S::width;

 public:
  explicit WinogradWeights(const WinogradPlan<S>& plan)
      : p_(plan), points_(p_.points * size()), taps_(p_.taps * size()), bias_(2 * p_.channels) {
    std::fill_n(taps_.data(), p_.taps * size(), T(0));  // channels that do not exist stay zero
  }

  // bias: (O) or null.
  template <class W>
  void set(const T* weight, const T* bias, WinogradKernels kernels) {
    const Conv2dShape& s = p_.shape;
    std::fill_n(bias_.data(), 2 * p_.channels, T(0));
    if (bias != nullptr) std::copy_n(bias, s.out_channels, bias_.data() + p_.channels);
    const int64_t taps = s.kernel_height * s.kernel_width, depth = s.in_channels * taps;
    if (kernels == WinogradKernels::kPlain) {
      transpose<S>(weight, depth, taps_.data(), p_.channels, s.out_channels, depth);
    } else {
      T* last = taps_.data() + (taps - 1) * p_.channels;
      for (int64_t c = 0; c < s.in_channels; ++c, last += taps * p_.channels) {
        transpose<S>(weight + c * s.out_channels * taps, taps, last, -p_.channels, s.out_channels, taps);
      }
    }
    Scratch<T> magnitudes(2 * p_.channels);
    std::fill_n(magnitudes.data(), 2 * p_.channels, T(0));
    for (int64_t c = 0; c < s.in_channels; ++c) {
      const T* row = taps_.data() + c * taps * p_.channels;
      for (int64_t phase = 0; phase < s.stride_h; ++phase, row += s.kernel_width * p_.channels) {
        transform<W>(row, (c * s.stride_h + phase) * s.kernel_width, magnitudes.data());
      }
    }
    set_unevenness(magnitudes.data(), depth);
  }

  const T* point(int64_t i) const { return points_.data() + i * size(); }
  const T* taps() const { return taps_.data(); }  // [c][kh][kw][output channel]
  const T* no_bias() const { return bias_.data(); }
  const T* bias() const { return bias_.data() + p_.channels; }
  T unevenness() const { return unevenness_; }

 private:
  int64_t size() const { return p_.terms * p_.channels; }

  // Of one phase of one input channel, [kh][kw][output channel] from its first row, to [point][block of
  // channels][term][output channel of the block]. first_term: of the phase. magnitudes: sums of the magnitudes, then
  // of the squares, of each output channel, to be added to.
  template <class W>
  void transform(const T* taps, int64_t first_term, T* magnitudes) {
    const int64_t block = p_.lanes_are_channels ? p_.tile_vectors * kWidth : p_.channels;
    const int64_t tap_step = p_.shape.stride_h * p_.shape.kernel_width * p_.channels;
    for (int64_t kw = 0; kw < p_.shape.kernel_width; ++kw, taps += p_.channels) {
      for (int64_t o = 0; o < p_.channels; o += kWidth) {
        V g[W::kTaps], u[W::kPoints], sum = S::zero(), square = S::zero();
        const int64_t place = (o / block * p_.terms + first_term + kw) * block + o % block;
#pragma GCC unroll 8
        for (int i = 0; i < W::kTaps; ++i) {
          g[i] = S::load(taps + i * tap_step + o);
          sum = S::add(sum, S::abs(g[i])), square = S::fma(g[i], g[i], square);
        }
        T* const sums = magnitudes + o;
        S::store(sums, S::add(S::load(sums), sum));
        S::store(sums + p_.channels, S::add(S::load(sums + p_.channels), square));
        W::transform_taps(g, u);
#pragma GCC unroll 8
        for (int i = 0; i < W::kPoints; ++i) S::store(points_.data() + i * size() + place, u[i]);
      }
    }
  }

  // Of filters of `count` weights each.
  void set_unevenness(const T* magnitudes, int64_t count) {
    unevenness_ = 1;
    for (int64_t o = 0; o < p_.shape.out_channels; ++o) {
      const T sum = magnitudes[o], square = magnitudes[p_.channels + o];
      if (sum == 0) continue;
      const bool in_range =
          square >= static_cast<T>(kLeastSquare) && square <= static_cast<T>(kLargestSquare);
      const T filter =
          in_range ? static_cast<T>(count) * square / (sum * sum) : std::numeric_limits<T>::infinity();
      unevenness_ = std::max(unevenness_, filter);
    }
  }

  const WinogradPlan<S>& p_;
  Scratch<T> points_, taps_, bias_;  // bias_: none, then the bias
  T unevenness_ = 1;                 // see winograd_guard.h; infinite where the method cannot be taken
};

}  // namespace lenet_ext::cpu
