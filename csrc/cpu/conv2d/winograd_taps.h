// The weights of a convolution with output channels as lanes, as the direct sums of Winograd's method take them and
// its transformations read them, the bias, and what the filters allow.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/conv2d/winograd_range.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"
#include "shapes.h"

namespace lenet_ext::cpu {

// Which kernels the weights hold.
enum class WinogradKernels {
  kPlain,   // (O, C, KH, KW): those of the convolution
  kTurned,  // (C, O, KH, KW), turned round: those of the convolution whose input gradient this one is
};

template <class S>
class WinogradTaps {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  // channels: output channels, up to whole contract tiles. Those that do not exist are zero. products: of a tile, for
  // init().
  WinogradTaps(const Conv2dShape& shape, int64_t channels, int64_t products)
      : s_(shape),
        channels_(channels),
        products_(products),
        taps_(depth() * channels),
        bias_(products * channels) {
    std::fill_n(taps_.data(), depth() * channels, T(0));
  }

  // bias: (O) or null.
  void set(const T* weight, const T* bias, WinogradKernels kernels) {
    std::fill_n(bias_.data(), products_ * channels_, T(0));
    if (bias != nullptr) std::copy_n(bias, s_.out_channels, bias_.data() + channels_);
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    if (kernels == WinogradKernels::kPlain) {
      transpose<S>(weight, depth(), taps_.data(), channels_, s_.out_channels, depth());
    } else {
      T* last = taps_.data() + (taps - 1) * channels_;
      for (int64_t c = 0; c < s_.in_channels; ++c, last += taps * channels_) {
        transpose<S>(weight + c * s_.out_channels * taps, taps, last, -channels_, s_.out_channels, taps);
      }
    }
    set_unevenness();
  }

  const T* data() const { return taps_.data(); }  // [c][kh][kw][output channel]
  // Where the sums of product i of a tile begin: at the bias for number 1, else at zero.
  const T* init(int64_t i) const { return bias_.data() + i * channels_; }
  const T* bias() const { return init(1); }
  // The largest n |w|_2^2 / |w|_1^2 of all filters w of n weights; infinite where the method cannot be taken.
  T unevenness() const { return unevenness_; }

 private:
  int64_t depth() const { return s_.in_channels * s_.kernel_height * s_.kernel_width; }

  void set_unevenness() {
    unevenness_ = 1;
    for (int64_t first = 0; first < s_.out_channels; first += S::width) {
      V sums = S::zero(), squares = S::zero();
      for (int64_t i = 0; i < depth(); ++i) {
        const V tap = S::load(taps_.data() + i * channels_ + first);
        sums = S::add(sums, S::abs(tap)), squares = S::fma(tap, tap, squares);
      }
      T sum[S::width], square[S::width];
      S::store(sum, sums), S::store(square, squares);
      const int64_t count = std::min<int64_t>(S::width, s_.out_channels - first);
      for (int64_t o = 0; o < count; ++o) unevenness_ = std::max(unevenness_, of_filter(sum[o], square[o]));
    }
  }
  T of_filter(T sum, T square) const {
    if (sum == 0) return 1;
    const bool in_range = square >= static_cast<T>(kLeastSquare) && square <= static_cast<T>(kLargestSquare);
    return in_range ? static_cast<T>(depth()) * square / (sum * sum) : std::numeric_limits<T>::infinity();
  }

  const Conv2dShape& s_;
  const int64_t channels_, products_;
  Scratch<T> taps_, bias_;
  T unevenness_ = 1;
};

}  // namespace lenet_ext::cpu
