// The products of a plane with the gradients of its depthwise convolution, for the weight gradient of square kernels
// of kTaps x kTaps.
//
// Registers: an accumulator for each tap of some kernel rows, a vector of gradients for each of these rows, a pixel.
#pragma once

#include "cpu/conv2d/depthwise_strips.h"

namespace lenet_ext::cpu {

template <class S, int kTaps, int kStride>
struct DepthwiseProducts {
  using T = typename S::Scalar;
  using V = typename S::Vector;

  // sums[tap] += over `images` planes, strides apart: grad * what the tap meets.
  static void add(const PlaneGeometry& g, const std::vector<PlaneStrip>& strips, int64_t images, const T* in,
                  int64_t in_stride, const T* grad, int64_t grad_stride, T* sums) {
    constexpr int kRows = std::min(kTaps, (S::registers - 1) / (kTaps + 1));
    for (const PlaneStrip& strip : strips) {
      with_strip_columns<S, kTaps, kStride>(strip, [&](const auto& columns) {
        weight_grad_rows<0, kRows>(g, strip, columns, images, in, in_stride, grad, grad_stride, sums);
      });
    }
  }

 private:
  // Of kernel rows [kFirst, kFirst + kRows), then of the others.
  template <int kFirst, int kRows, class Columns>
  static void weight_grad_rows(const PlaneGeometry& g, const PlaneStrip& strip, const Columns& columns,
                               int64_t images, const T* in, int64_t in_stride, const T* grad,
                               int64_t grad_stride, T* sums) {
    V products[kRows * kTaps];
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kTaps; ++i) products[i] = S::zero();
    for (int64_t n = 0; n < images; ++n) {
      const T *const x = in + n * in_stride, *const gradient = grad + n * grad_stride + strip.first;
      if (strip.rows > 1) {
        add_products_of_rows<kFirst, kRows>(g, strip, columns, x, gradient, products);
      } else if (kStride == 1) {
        add_rolling_products<kFirst, kRows>(g, strip, columns, x, gradient, products);
      } else {
        add_products<kFirst, kRows>(g, strip, columns, x, gradient, products);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kTaps; ++i) sums[kFirst * kTaps + i] += S::reduce_add(products[i]);
    constexpr int kDone = kFirst + kRows;
    if constexpr (kDone < kTaps) {
      weight_grad_rows<kDone, std::min(kRows, kTaps - kDone)>(g, strip, columns, images, in, in_stride, grad,
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
  template <int kFirst, int kRows, class Columns>
  static inline __attribute__((always_inline)) void add_rolling_products(const PlaneGeometry& g,
                                                                         const PlaneStrip& strip,
                                                                         const Columns& columns, const T* in,
                                                                         const T* grad,
                                                                         V (&products)[kRows * kTaps]) {
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
      columns.load(first_pixel<kStride>(g, strip, in, row), taps);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        if (bottom - i < 0 || bottom - i >= g.out_height) continue;
        add_row_products<kRows>(taps, gradients[i], i, products);
      }
    }
  }

  template <int kFirst, int kRows, class Columns>
  static inline __attribute__((always_inline)) void add_products(const PlaneGeometry& g,
                                                                 const PlaneStrip& strip,
                                                                 const Columns& columns, const T* in,
                                                                 const T* grad,
                                                                 V (&products)[kRows * kTaps]) {
    for (int64_t y = 0; y < g.out_height; ++y) {
      const V gradient = S::load_partial(grad + y * g.out_width, strip.lanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = y * kStride - g.pad_top + kFirst + i;
        if (row < 0 || row >= g.height) continue;
        V taps[kTaps];
        columns.load(first_pixel<kStride>(g, strip, in, row), taps);
        add_row_products<kRows>(taps, gradient, i, products);
      }
    }
  }

  template <int kFirst, int kRows, class Columns>
  static inline __attribute__((always_inline)) void add_products_of_rows(const PlaneGeometry& g,
                                                                         const PlaneStrip& strip,
                                                                         const Columns& columns, const T* in,
                                                                         const T* grad,
                                                                         V (&products)[kRows * kTaps]) {
    const int64_t width = g.width, rows = strip.rows;
    const T* const first = first_pixel<kStride>(g, strip, in, kFirst - g.pad_top);
    for (int64_t step = strip.whole_steps.begin; step < strip.whole_steps.end; ++step) {
      const V gradient = S::load_partial(grad + step * rows * width, strip.lanes);
      const T* from = first + step * rows * width;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i, from += width) {
        V taps[kTaps];
        columns.load(from, taps);
        add_row_products<kRows>(taps, gradient, i, products);
      }
    }
    const int64_t steps = steps_down(g, strip);
    for (int64_t step = other_step(strip, 0); step < steps; step = other_step(strip, step + 1)) {
      const uint32_t* const lanes = strip.row_lanes.data() + step * kTaps;
      const V gradient = S::load_partial(grad + step * rows * width, output_lanes(g, strip, step));
      const T* from = first + step * rows * width;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i, from += width) {
        V taps[kTaps];
        columns.load_some(from, lanes[kFirst + i], taps);
        add_row_products<kRows>(taps, gradient, i, products);
      }
    }
  }
};

}  // namespace lenet_ext::cpu
