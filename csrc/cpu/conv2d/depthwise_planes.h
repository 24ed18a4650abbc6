// The depthwise convolution of one plane, and its two gradients, for square kernels of kTaps x kTaps.
//
// Registers, forward with a stride of 1: kTaps accumulators, one for each output row that the input row at hand
// belongs to, so that a row is loaded once; kTaps pixels, masks, and as many of the weights as are left. Weight
// gradient: an accumulator for each tap of some kernel rows, a vector of gradients for each of these rows.
#pragma once

#include "cpu/conv2d/depthwise_strips.h"

namespace lenet_ext::cpu {

template <class S, int kTaps, int kStride>
struct DepthwisePlane {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  using Columns = StripColumns<S, kTaps, kStride>;

  // out = bias + in * weight, or with `add` out += this.
  static void forward(const PlaneGeometry& g, const std::vector<PlaneStrip>& strips, const T* in,
                      const T* weight, T bias, bool add, T* out) {
    V w[kTaps * kTaps];
#pragma GCC unroll 32
    for (int i = 0; i < kTaps * kTaps; ++i) w[i] = S::broadcast(weight[i]);
    for (const PlaneStrip& strip : strips) {
      const V init = S::broadcast(bias);
      const Target to{out, g.out_width, strip, add};
      if (strip.rows > 1) {
        several_rows(g, strip, in, w, init, to);
      } else if constexpr (kStride == 1) {
        rolling_rows(g, strip, in, w, init, to);
      } else {
        single_rows(g, strip, in, w, init, to);
      }
    }
  }

  // sums[tap] += over `images` planes, strides apart: grad * what the tap meets.
  static void weight_grad(const PlaneGeometry& g, const std::vector<PlaneStrip>& strips, int64_t images,
                          const T* in, int64_t in_stride, const T* grad, int64_t grad_stride, T* sums) {
    constexpr int kRows = std::min(kTaps, (S::registers - 1) / (kTaps + 1));
    for (const PlaneStrip& strip : strips) {
      weight_grad_rows<0, kRows>(g, strip, images, in, in_stride, grad, grad_stride, sums);
    }
  }

 private:
  struct Target {
    T* out;
    int64_t width;
    const PlaneStrip& strip;
    bool add;

    void store(int64_t row, int lanes, V value) const {
      T* const to = out + row * width + strip.first;
      if (add) value = S::add(S::load_partial(to, lanes), value);
      if (lanes == S::width) return S::store(to, value);
      S::store_partial(to, value, lanes);
    }
  };

  // The pixel that the first tap of a row of taps meets in this row of the image.
  static const T* first_pixel(const PlaneGeometry& g, const PlaneStrip& strip, const T* in, int64_t row) {
    return in + row * g.width + strip.first * kStride - g.pad_left;
  }

  // Each input row is added to the kTaps output rows that it belongs to.
  static void rolling_rows(const PlaneGeometry& g, const PlaneStrip& strip, const T* in,
                           const V (&w)[kTaps * kTaps], V init, const Target& to) {
    const Columns columns(strip);
    V sums[kTaps];  // of output rows `bottom` - kTaps + 1 on
#pragma GCC unroll 8
    for (int i = 0; i < kTaps; ++i) sums[i] = init;
    for (int64_t bottom = 0; bottom < g.out_height + kTaps - 1; ++bottom) {
      const int64_t row = bottom - g.pad_top;
      if (row >= 0 && row < g.height) {
        V taps[kTaps];
        columns.load(first_pixel(g, strip, in, row), taps);
#pragma GCC unroll 8
        for (int x = 0; x < kTaps; ++x) {
#pragma GCC unroll 8
          for (int i = 0; i < kTaps; ++i) {
            sums[i] = S::fma(taps[x], w[(kTaps - 1 - i) * kTaps + x], sums[i]);
          }
        }
      }
      if (bottom >= kTaps - 1) to.store(bottom - kTaps + 1, strip.lanes, sums[0]);
#pragma GCC unroll 8
      for (int i = 0; i + 1 < kTaps; ++i) sums[i] = sums[i + 1];
      sums[kTaps - 1] = init;
    }
  }

  static void add_row(const Columns& columns, const T* row, const V* w, V& sum) {
    V taps[kTaps];
    columns.load(row, taps);
#pragma GCC unroll 8
    for (int x = 0; x < kTaps; ++x) sum = S::fma(taps[x], w[x], sum);
  }

  static void single_rows(const PlaneGeometry& g, const PlaneStrip& strip, const T* in,
                          const V (&w)[kTaps * kTaps], V init, const Target& to) {
    const Columns columns(strip);
    for (int64_t y = 0; y < g.out_height; ++y) {
      V sum = init;
      const int64_t top = y * kStride - g.pad_top;
#pragma GCC unroll 8
      for (int ky = 0; ky < kTaps; ++ky) {
        if (top + ky < 0 || top + ky >= g.height) continue;
        add_row(columns, first_pixel(g, strip, in, top + ky), w + ky * kTaps, sum);
      }
      to.store(y, strip.lanes, sum);
    }
  }

  static void several_rows(const PlaneGeometry& g, const PlaneStrip& strip, const T* in,
                           const V (&w)[kTaps * kTaps], V init, const Target& to) {
    const Columns columns(strip);
    const int64_t width = g.width, rows = strip.rows, height = g.out_height;
    const Range whole = strip.whole_steps;
    const uint32_t* lanes = strip.row_lanes.data();
    const T* from = first_pixel(g, strip, in, -g.pad_top);
    for (int64_t y = 0, step = 0; y < height; y += rows, ++step, from += rows * width, lanes += kTaps) {
      V sum = init;
      if (whole.begin <= step && step < whole.end) {
#pragma GCC unroll 8
        for (int ky = 0; ky < kTaps; ++ky) add_row(columns, from + ky * width, w + ky * kTaps, sum);
      } else {
#pragma GCC unroll 8
        for (int ky = 0; ky < kTaps; ++ky) {
          add_row(Columns(strip, lanes[ky]), from + ky * width, w + ky * kTaps, sum);
        }
      }
      to.store(y, static_cast<int>(std::min(height - y, rows) * width), sum);
    }
  }

  // Of kernel rows [kFirst, kFirst + kRows), then of the others.
  template <int kFirst, int kRows>
  static void weight_grad_rows(const PlaneGeometry& g, const PlaneStrip& strip, int64_t images, const T* in,
                               int64_t in_stride, const T* grad, int64_t grad_stride, T* sums) {
    V products[kRows * kTaps];
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kTaps; ++i) products[i] = S::zero();
    for (int64_t n = 0; n < images; ++n) {
      const T *const x = in + n * in_stride, *const gradient = grad + n * grad_stride + strip.first;
      if (strip.rows > 1) {
        add_products_of_rows<kFirst, kRows>(g, strip, x, gradient, products);
      } else if (kStride == 1) {
        add_rolling_products<kFirst, kRows>(g, strip, x, gradient, products);
      } else {
        add_products<kFirst, kRows>(g, strip, x, gradient, products);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kTaps; ++i) sums[kFirst * kTaps + i] += S::reduce_add(products[i]);
    constexpr int kDone = kFirst + kRows;
    if constexpr (kDone < kTaps) {
      weight_grad_rows<kDone, std::min(kRows, kTaps - kDone)>(g, strip, images, in, in_stride, grad,
                                                              grad_stride, sums);
    }
  }

  template <int kRows>
  static void add_row_products(const V (&taps)[kTaps], V gradient, int row, V (&products)[kRows * kTaps]) {
#pragma GCC unroll 8
    for (int x = 0; x < kTaps; ++x) {
      products[row * kTaps + x] = S::fma(taps[x], gradient, products[row * kTaps + x]);
    }
  }

  // Each row of the input and of the gradients is loaded once.
  template <int kFirst, int kRows>
  static inline __attribute__((always_inline)) void add_rolling_products(const PlaneGeometry& g,
                                                                         const PlaneStrip& strip, const T* in,
                                                                         const T* grad,
                                                                         V (&products)[kRows * kTaps]) {
    const Columns columns(strip);
    V gradients[kRows];  // of the output rows `bottom`, `bottom` - 1 ...: those that a kernel row goes with
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) gradients[i] = S::zero();
    for (int64_t bottom = 0; bottom < g.out_height + kRows - 1; ++bottom) {
#pragma GCC unroll 8
      for (int i = kRows - 1; i > 0; --i) gradients[i] = gradients[i - 1];
      if (bottom < g.out_height) gradients[0] = S::load_partial(grad + bottom * g.out_width, strip.lanes);
      const int64_t row = bottom + kFirst - g.pad_top;
      if (row < 0 || row >= g.height) continue;
      V taps[kTaps];
      columns.load(first_pixel(g, strip, in, row), taps);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        if (bottom - i < 0 || bottom - i >= g.out_height) continue;
        add_row_products<kRows>(taps, gradients[i], i, products);
      }
    }
  }

  template <int kFirst, int kRows>
  static inline __attribute__((always_inline)) void add_products(const PlaneGeometry& g,
                                                                 const PlaneStrip& strip, const T* in,
                                                                 const T* grad,
                                                                 V (&products)[kRows * kTaps]) {
    const Columns columns(strip);
    for (int64_t y = 0; y < g.out_height; ++y) {
      const V gradient = S::load_partial(grad + y * g.out_width, strip.lanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = y * kStride - g.pad_top + kFirst + i;
        if (row < 0 || row >= g.height) continue;
        V taps[kTaps];
        columns.load(first_pixel(g, strip, in, row), taps);
        add_row_products<kRows>(taps, gradient, i, products);
      }
    }
  }

  template <int kFirst, int kRows>
  static inline __attribute__((always_inline)) void add_products_of_rows(const PlaneGeometry& g,
                                                                         const PlaneStrip& strip, const T* in,
                                                                         const T* grad,
                                                                         V (&products)[kRows * kTaps]) {
    const Columns columns(strip);
    const int64_t width = g.width, rows = strip.rows, height = g.out_height;
    const Range whole = strip.whole_steps;
    const uint32_t* lanes = strip.row_lanes.data();
    const T* from = first_pixel(g, strip, in, kFirst - g.pad_top);
    for (int64_t y = 0, step = 0; y < height; y += rows, ++step, from += rows * width, lanes += kTaps) {
      const V gradient =
          S::load_partial(grad + y * width, static_cast<int>(std::min(height - y, rows) * width));
      const bool is_whole = whole.begin <= step && step < whole.end;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        V taps[kTaps];
        if (is_whole) {
          columns.load(from + i * width, taps);
        } else {
          Columns(strip, lanes[kFirst + i]).load(from + i * width, taps);
        }
        add_row_products<kRows>(taps, gradient, i, products);
      }
    }
  }
};

}  // namespace lenet_ext::cpu
