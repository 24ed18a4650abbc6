// The input gradient of a depthwise convolution with a stride of 2, of one plane. Lanes are pairs of neighbouring
// pixels: the taps with which a kernel's column reaches the first of a pair, and those of the second, are summed
// apart and interleaved at the end, so that nothing is multiplied by the zeros between strided outputs.
#pragma once

#include "cpu/conv2d/depthwise_strips.h"

namespace lenet_ext::cpu {

template <class S, int kTaps>
class DepthwiseTransposed {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  // g: of the convolution.
  explicit DepthwiseTransposed(const PlaneGeometry& g) : g_(g) {
    for (int64_t first = 0; 2 * first < g.width; first += S::width) {
      PlaneStrip strip{first, 0, 1, {}};
      for (int x = 0; x < kTaps; ++x) {
        for (int64_t lane = 0; lane < S::width; ++lane) {
          const int64_t pair = first + lane, from = pair + shift(x);
          const bool wanted = from >= 0 && from < g.out_width && 2 * pair + place(x) < g.width;
          strip.columns[x] |= uint32_t{wanted} << lane;
        }
      }
      strips_.push_back(strip);
    }
  }

  // grad_in = bias + the gradient, or with `add` grad_in += this.
  void run(const T* grad, const T* weight, T bias, bool add, T* grad_in) const {
    for (const PlaneStrip& strip : strips_) {
      typename S::Mask masks[kTaps];
#pragma GCC unroll 8
      for (int x = 0; x < kTaps; ++x) masks[x] = S::mask_of(strip.columns[x]);
      for (int64_t y = 0; y < g_.height; ++y) {
        V even_columns = S::zero(), odd_columns = S::zero();  // of the kernel
        for (int64_t ky = (y + g_.pad_top) % 2; ky < kTaps; ky += 2) {
          const int64_t row = (y + g_.pad_top - ky) / 2;
          if (y + g_.pad_top < ky || row >= g_.out_height) continue;
          const T *const from = grad + row * g_.out_width + strip.first, *const w = weight + ky * kTaps;
#pragma GCC unroll 8
          for (int x = 0; x < kTaps; ++x) {
            V& sum = x % 2 == 0 ? even_columns : odd_columns;
            sum = S::fma(S::load_masked(from + shift(x), masks[x]), S::broadcast(w[x]), sum);
          }
        }
        const bool swapped = place(0) == 1;
        store(swapped ? odd_columns : even_columns, swapped ? even_columns : odd_columns, bias, add,
              g_.width - 2 * strip.first, grad_in + y * g_.width + 2 * strip.first);
      }
    }
  }

 private:
  // Which pixel of a pair kernel column x reaches, and from which output: that of the pair's number plus this.
  int64_t place(int64_t x) const { return (x + g_.pad_left) % 2; }
  int64_t shift(int64_t x) const { return (place(x) + g_.pad_left - x) / 2; }

  static void store(V first, V second, T bias, bool add, int64_t count, T* to) {
    const V pixels[2] = {S::interleave_low(first, second), S::interleave_high(first, second)};
    for (int i = 0; i < 2 && i * S::width < count; ++i, to += S::width) {
      const auto lanes = static_cast<int>(std::min<int64_t>(count - i * S::width, S::width));
      V value = S::add(pixels[i], S::broadcast(bias));
      if (add) value = S::add(value, S::load_partial(to, lanes));
      S::store_partial(to, value, lanes);
    }
  }

  const PlaneGeometry g_;
  std::vector<PlaneStrip> strips_;
};

}  // namespace lenet_ext::cpu
