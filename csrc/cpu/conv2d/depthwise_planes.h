// The depthwise convolution of one plane, for square kernels of kTaps x kTaps.
//
// Registers, with a stride of 1: kTaps accumulators, one for each output row that the input row at hand belongs to, so
// that a row is loaded once; kTaps pixels; and as many of the weights as there are registers left for.
#pragma once

#include "cpu/conv2d/depthwise_strips.h"

namespace lenet_ext::cpu {

template <class S, int kTaps, int kStride>
struct DepthwisePlane {
  using T = typename S::Scalar;
  using V = typename S::Vector;

  // out = bias + in * weight, or with `add` out += this.
  static void forward(const PlaneGeometry& g, const std::vector<PlaneStrip>& strips, const T* in,
                      const T* weight, T bias, bool add, T* out) {
    V w[kTaps * kTaps];
#pragma GCC unroll 32
    for (int i = 0; i < kTaps * kTaps; ++i) w[i] = S::broadcast(weight[i]);
    for (const PlaneStrip& strip : strips) {
      const V init = S::broadcast(bias);
      const Target to{out, g.out_width, strip, add};
      with_strip_columns<S, kTaps, kStride>(strip, [&](const auto& columns) {
        if (strip.rows > 1) {
          several_rows(g, strip, columns, in, w, init, to);
        } else if constexpr (kStride == 1) {
          rolling_rows(g, strip, columns, in, w, init, to);
        } else {
          single_rows(g, strip, columns, in, w, init, to);
        }
      });
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

  // Each input row is added to the kTaps output rows that it belongs to.
  template <class Columns>
  static void rolling_rows(const PlaneGeometry& g, const PlaneStrip& strip, const Columns& columns,
                           const T* in, const V (&w)[kTaps * kTaps], V init, const Target& to) {
    V sums[kTaps];  // of output rows `bottom` - kTaps + 1 on
#pragma GCC unroll 8
    for (int i = 0; i < kTaps; ++i) sums[i] = init;
    for (int64_t bottom = 0; bottom < g.out_height + kTaps - 1; ++bottom) {
      const int64_t row = bottom - g.pad_top;
      if (row >= 0 && row < g.height) {
        V taps[kTaps];
        columns.load(first_pixel<kStride>(g, strip, in, row), taps);
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

  static void add_row(const V (&taps)[kTaps], const V* w, V& sum) {
#pragma GCC unroll 8
    for (int x = 0; x < kTaps; ++x) sum = S::fma(taps[x], w[x], sum);
  }

  template <class Columns>
  static void single_rows(const PlaneGeometry& g, const PlaneStrip& strip, const Columns& columns,
                          const T* in, const V (&w)[kTaps * kTaps], V init, const Target& to) {
    for (int64_t y = 0; y < g.out_height; ++y) {
      V sum = init;
      const int64_t top = y * kStride - g.pad_top;
#pragma GCC unroll 8
      for (int ky = 0; ky < kTaps; ++ky) {
        if (top + ky < 0 || top + ky >= g.height) continue;
        V taps[kTaps];
        columns.load(first_pixel<kStride>(g, strip, in, top + ky), taps);
        add_row(taps, w + ky * kTaps, sum);
      }
      to.store(y, strip.lanes, sum);
    }
  }

  // The steps at which all lanes' rows lie in the image first, then the few others.
  template <class Columns>
  static void several_rows(const PlaneGeometry& g, const PlaneStrip& strip, const Columns& columns,
                           const T* in, const V (&w)[kTaps * kTaps], V init, const Target& to) {
    const int64_t width = g.width, rows = strip.rows;
    const T* const first = first_pixel<kStride>(g, strip, in, -g.pad_top);
    for (int64_t step = strip.whole_steps.begin; step < strip.whole_steps.end; ++step) {
      V sum = init;
      const T* from = first + step * rows * width;
#pragma GCC unroll 8
      for (int ky = 0; ky < kTaps; ++ky, from += width) {
        V taps[kTaps];
        columns.load(from, taps);
        add_row(taps, w + ky * kTaps, sum);
      }
      to.store(step * rows, strip.lanes, sum);
    }
    const int64_t steps = steps_down(g, strip);
    for (int64_t step = other_step(strip, 0); step < steps; step = other_step(strip, step + 1)) {
      const uint32_t* const lanes = strip.row_lanes.data() + step * kTaps;
      V sum = init;
      const T* from = first + step * rows * width;
#pragma GCC unroll 8
      for (int ky = 0; ky < kTaps; ++ky, from += width) {
        V taps[kTaps];
        columns.load_some(from, lanes[ky], taps);
        add_row(taps, w + ky * kTaps, sum);
      }
      to.store(step * rows, output_lanes(g, strip, step), sum);
    }
  }
};

}  // namespace lenet_ext::cpu
