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
  // g: of the convolution. A strip's `first` counts pairs of input pixels, its columns are lanes of gradients.
  static std::vector<PlaneStrip> strips(const PlaneGeometry& g) {
    std::vector<PlaneStrip> strips;
    for (int64_t first = 0; 2 * first < g.width; first += S::width) {
      PlaneStrip strip{first, 0, 1, false, {}};
      for (int x = 0; x < kTaps; ++x) {
        for (int64_t lane = 0; lane < S::width; ++lane) {
          const int64_t pair = first + lane, from = pair + shift(g, x);
          const bool wanted = from >= 0 && from < g.out_width && 2 * pair + place(g, x) < g.width;
          strip.columns[x] |= uint32_t{wanted} << lane;
        }
      }
      strips.push_back(strip);
    }
    return strips;
  }

  // grad_in = bias + the gradient, or with `add` grad_in += this.
  static void run(const PlaneGeometry& g, const std::vector<PlaneStrip>& strips, const T* grad,
                  const T* weight, T bias, bool add, T* grad_in) {
    for (const PlaneStrip& strip : strips) {
      typename S::Mask masks[kTaps];
#pragma GCC unroll 8
      for (int x = 0; x < kTaps; ++x) masks[x] = S::mask_of(strip.columns[x]);
      for (int64_t y = 0; y < g.height; ++y) {
        V even_columns = S::zero(), odd_columns = S::zero();  // of the kernel
        for (int64_t ky = (y + g.pad_top) % 2; ky < kTaps; ky += 2) {
          const int64_t row = (y + g.pad_top - ky) / 2;
          if (y + g.pad_top < ky || row >= g.out_height) continue;
          const T *const from = grad + row * g.out_width + strip.first, *const w = weight + ky * kTaps;
#pragma GCC unroll 8
          for (int x = 0; x < kTaps; ++x) {
            V& sum = x % 2 == 0 ? even_columns : odd_columns;
            sum = S::fma(S::load_masked(from + shift(g, x), masks[x]), S::broadcast(w[x]), sum);
          }
        }
        const bool swapped = place(g, 0) == 1;
        store(swapped ? odd_columns : even_columns, swapped ? even_columns : odd_columns, bias, add,
              g.width - 2 * strip.first, grad_in + y * g.width + 2 * strip.first);
      }
    }
  }

 private:
  // Which pixel of a pair kernel column x reaches, and from which output: that of the pair's number plus this.
  static int64_t place(const PlaneGeometry& g, int64_t x) { return (x + g.pad_left) % 2; }
  static int64_t shift(const PlaneGeometry& g, int64_t x) { return (place(g, x) + g.pad_left - x) / 2; }

  static void store(V first, V second, T bias, bool add, int64_t count, T* to) {
    const V pixels[2] = {S::interleave_low(first, second), S::interleave_high(first, second)};
    for (int i = 0; i < 2 && i * S::width < count; ++i, to += S::width) {
      const auto lanes = static_cast<int>(std::min<int64_t>(count - i * S::width, S::width));
      V value = S::add(pixels[i], S::broadcast(bias));
      if (add) value = S::add(value, S::load_partial(to, lanes));
      S::store_partial(to, value, lanes);
    }
  }
};

}  // namespace lenet_ext::cpu
