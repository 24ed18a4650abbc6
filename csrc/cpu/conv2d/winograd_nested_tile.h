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

// transform, of kFrom vectors to kTo, applied to the columns of load(row, column), then to the rows of what that gives;
// store(row, column, vector) takes the results.
template <class S, int kFrom, int kTo, auto transform, class Load, class Store>
[[gnu::always_inline]] inline void along_both_axes(const Load& load, const Store& store) {
  using V = typename S::Vector;
  V columns[kTo][kFrom];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) {
    V from[kFrom], to[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) from[i] = load(i, j);
    transform(from, to);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) columns[i][j] = to[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) {
    V to[kTo];
    transform(columns[i], to);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) store(i, j, to[j]);
  }
}

// A tile of `channels` channels, whole vectors, to the points, `step` apart.
template <class S>
void transform_nested_input(const TilePixels<typename S::Scalar>& pixels, int64_t channels,
                            typename S::Scalar* points, int64_t step) {
  using Axis = typename NestedWinogradPlan<S>::Axis;
  constexpr int kSide = Axis::kPoints;
  for (int64_t c = 0; c < channels; c += S::width, points += S::width) {
    along_both_axes<S, kSide, kSide, &Axis::transform_input>(
        [&](int i, int j) { return S::load(pixels[i * kSide + j] + c); },
        [&](int i, int j, typename S::Vector v) { S::store(points + (i * kSide + j) * step, v); });
  }
}

// The nine taps, tap_step apart, of a vector of output channels to the points, `step` apart.
template <class S>
[[gnu::always_inline]] inline void transform_nested_taps(const typename S::Scalar* taps, int64_t tap_step,
                                                         typename S::Scalar* points, int64_t step) {
  using Axis = typename NestedWinogradPlan<S>::Axis;
  constexpr int kSide = Axis::kPoints, kTaps = Axis::kTaps;
  along_both_axes<S, kTaps, kSide, &Axis::transform_taps>(
      [&](int i, int j) { return S::load(taps + (i * kTaps + j) * tap_step); },
      [&](int i, int j, typename S::Vector v) { S::store(points + (i * kSide + j) * step, v); });
}

// A vector of channels of the 4x4 results of a tile.
template <class S>
struct TileResults {
  using Axis = typename NestedWinogradPlan<S>::Axis;
  static constexpr int kSide = Axis::kPoints, kOutputs = Axis::kOutputs;
  typename S::Vector y[kOutputs][kOutputs];

  // From the products of the points.
  [[gnu::always_inline]] static TileResults of_products(const typename S::Scalar* products, int64_t step) {
    TileResults results;
    along_both_axes<S, kSide, kOutputs, &Axis::transform_output>(
        [&](int i, int j) { return S::load(products + (i * kSide + j) * step); },
        [&](int i, int j, typename S::Vector v) { results.y[i][j] = v; });
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
