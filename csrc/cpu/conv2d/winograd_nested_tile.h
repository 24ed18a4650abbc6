// A tile of F(4x4, 3x3) into the Winograd domain and out of it: the transformation of one axis (winograd.h), applied
// to the columns and then to the rows. Lanes are channels. The 36 vectors between the two steps are more than there
// are registers: they lie on the stack, in the first-level cache.
#pragma once

#include "cpu/conv2d/winograd_nested_plan.h"
#include "cpu/conv2d/winograd_rows.h"

namespace lenet_ext::cpu {

// The pixels that a tile reads, [row][column].
template <class T>
using TilePixels = const T* [36];

// A tile of `channels` channels, whole vectors, to the points, `step` apart.
template <class S>
void transform_nested_input(const TilePixels<typename S::Scalar>& pixels, int64_t channels,
                            typename S::Scalar* points, int64_t step) {
  using Plan = NestedWinogradPlan<S>;
  using Axis = typename Plan::Axis;
  using V = typename S::Vector;
  constexpr int kSide = Plan::kSide;
  for (int64_t c = 0; c < channels; c += S::width, points += S::width) {
    V columns[kSide][kSide];
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) {
      V d[kSide], v[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) d[i] = S::load(pixels[i * kSide + j] + c);
      Axis::transform_input(d, v);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) columns[i][j] = v[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) {
      V v[kSide];
      Axis::transform_input(columns[i], v);
#pragma GCC unroll 6
      for (int j = 0; j < kSide; ++j) S::store(points + (i * kSide + j) * step, v[j]);
    }
  }
}

// The nine taps, `step` apart, of a vector of output channels to the points.
template <class S>
[[gnu::always_inline]] inline void transform_nested_taps(const typename S::Scalar* taps, int64_t tap_step,
                                                         typename S::Scalar* points, int64_t step) {
  using Plan = NestedWinogradPlan<S>;
  using Axis = typename Plan::Axis;
  using V = typename S::Vector;
  constexpr int kSide = Plan::kSide, kTaps = Axis::kTaps;
  V columns[kSide][kTaps];
#pragma GCC unroll 3
  for (int j = 0; j < kTaps; ++j) {
    V g[kTaps], u[kSide];
#pragma GCC unroll 3
    for (int i = 0; i < kTaps; ++i) g[i] = S::load(taps + (i * kTaps + j) * tap_step);
    Axis::transform_taps(g, u);
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) columns[i][j] = u[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) {
    V u[kSide];
    Axis::transform_taps(columns[i], u);
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) S::store(points + (i * kSide + j) * step, u[j]);
  }
}

// A vector of channels of the 4x4 results of a tile.
template <class S>
struct TileResults {
  static constexpr int kOutputs = NestedWinogradPlan<S>::kOutputs;
  typename S::Vector y[kOutputs][kOutputs];

  // From the products of the points.
  [[gnu::always_inline]] static TileResults of_products(const typename S::Scalar* products, int64_t step) {
    using Plan = NestedWinogradPlan<S>;
    using Axis = typename Plan::Axis;
    using V = typename S::Vector;
    constexpr int kSide = Plan::kSide;
    V columns[kOutputs][kSide];
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) {
      V m[kSide], y[kOutputs];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) m[i] = S::load(products + (i * kSide + j) * step);
      Axis::transform_output(m, y);
#pragma GCC unroll 4
      for (int i = 0; i < kOutputs; ++i) columns[i][j] = y[i];
    }
    TileResults results;
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) Axis::transform_output(columns[i], results.y[i]);
    return results;
  }
  // Those of which a bit is set in `which` as they lie, [row][column], `step` apart.
  [[gnu::always_inline]] void replace(uint32_t which, const typename S::Scalar* pixels, int64_t step) {
#pragma GCC unroll 16
    for (int i = 0; i < kOutputs * kOutputs; ++i) {
      if ((which >> i & 1) != 0) y[i / kOutputs][i % kOutputs] = S::load(pixels + i * step);
    }
  }
};

// Where the results of a tile go: so many of its rows and columns, `pixel_step` and `row_step` apart.
template <class T>
struct TileOutput {
  T* data;
  T* argmax;  // of the pool, as numbers; or null
  int64_t rows, columns, pixel_step, row_step;
};

template <class S>
[[gnu::always_inline]] inline void write_tile(const TileResults<S>& results,
                                              const TileOutput<typename S::Scalar>& to, int64_t channel) {
  constexpr int kOutputs = TileResults<S>::kOutputs;
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    if (i >= to.rows) break;
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      if (j < to.columns) S::store(to.data + i * to.row_step + j * to.pixel_step + channel, results.y[i][j]);
    }
  }
}

// The same, pooled by 2x2 windows.
template <class S, bool kArgmax>
[[gnu::always_inline]] inline void pool_tile(const TileResults<S>& results,
                                             const TileOutput<typename S::Scalar>& to, int64_t channel) {
  constexpr int kOutputs = TileResults<S>::kOutputs / 2;
#pragma GCC unroll 2
  for (int i = 0; i < kOutputs; ++i) {
    if (i >= to.rows) break;
#pragma GCC unroll 2
    for (int j = 0; j < kOutputs; ++j) {
      if (j >= to.columns) break;
      const auto *upper = &results.y[2 * i][2 * j], *lower = &results.y[2 * i + 1][2 * j];
      const Maximum<S> best = pool_window<S, kArgmax>(upper[0], upper[1], lower[0], lower[1]);
      const int64_t place = i * to.row_step + j * to.pixel_step + channel;
      S::store(to.data + place, best.value);
      if constexpr (kArgmax) S::store(to.argmax + place, best.argmax);
    }
  }
}

}  // namespace lenet_ext::cpu
