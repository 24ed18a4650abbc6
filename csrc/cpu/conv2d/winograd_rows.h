// The rows of a tile into the Winograd domain and out of it, the latter perhaps through a 2x2 max-pool. W is a
// Winograd or DirectRows (winograd.h); `step` leads from point to point.
#pragma once

#include <algorithm>

#include "cpu/conv2d/winograd.h"
#include "cpu/max_pool2d/window.h"

namespace lenet_ext::cpu {

// Where the rows lie that a tile reads: row_step from one to the next in each channel; with a stride of the height
// each `phase` of the rows (row modulo stride) is a channel of its own.
template <class T>
struct TileRows {
  const T* data;
  int64_t width, row_step, channels, channel_step, phases, phase_step;
};

// What tells whether a tile can be left to Winograd's method (winograd_guard.h), by column: the least sum of
// magnitudes that an output row reads, and the sum of squares of all rows, over all channels.
template <class T>
struct TileSums {
  T *windows, *squares;
  int64_t output_rows;  // that are needed
};

// A vector of columns of a tile, the first `lanes` lanes, to the points, [point][channel][column].
template <class S, class W, bool kPartial>
[[gnu::always_inline]] inline void transform_columns(TileRows<typename S::Scalar> rows, int lanes,
                                                     typename S::Scalar* points, int64_t plane, int64_t step,
                                                     TileSums<typename S::Scalar> sums) {
  using V = typename S::Vector;
  V magnitudes[W::kPoints], squares = S::zero(), more_squares = S::zero();
#pragma GCC unroll 8
  for (int i = 0; i < W::kPoints; ++i) magnitudes[i] = S::zero();
  const auto* next = rows.data;
  for (int64_t c = 0, phase = 0; c < rows.channels; points += plane) {
    const auto* const data = next;
    next += rows.phase_step;
    if (++phase == rows.phases) phase = 0, next = rows.data + ++c * rows.channel_step;
    V d[W::kPoints], v[W::kPoints];
#pragma GCC unroll 8
    for (int i = 0; i < W::kPoints; ++i) {
      const auto* const from = data + i * rows.row_step;
      d[i] = kPartial ? S::load_partial(from, lanes) : S::load(from);
      if constexpr (W::kDirect) continue;
      magnitudes[i] = S::add(magnitudes[i], S::abs(d[i]));
      (i % 2 == 0 ? squares : more_squares) = S::fma(d[i], d[i], i % 2 == 0 ? squares : more_squares);
    }
    W::transform_input(d, v);
#pragma GCC unroll 8
    for (int i = 0; i < W::kPoints; ++i) {
      kPartial ? S::store_partial(points + i * step, v[i], lanes) : S::store(points + i * step, v[i]);
    }
  }
  if constexpr (W::kDirect) return;
  V window = magnitudes[0];
#pragma GCC unroll 8
  for (int i = 1; i < W::kTaps; ++i) window = S::add(window, magnitudes[i]);
  V least = window;
#pragma GCC unroll 8
  for (int i = 1; i < W::kOutputs; ++i) {
    if (i >= sums.output_rows) break;
    window = S::add(S::sub(window, magnitudes[i - 1]), magnitudes[i - 1 + W::kTaps]);
    least = S::min(least, window);
  }
  S::store(sums.windows, least), S::store(sums.squares, S::add(squares, more_squares));
}

// All columns of a tile. Whole vectors of sums are written.
template <class S, class W>
void transform_tile(TileRows<typename S::Scalar> rows, typename S::Scalar* points, int64_t plane,
                    int64_t step, TileSums<typename S::Scalar> sums) {
  const int rest = static_cast<int>(rows.width % S::width);
  for (int64_t x = 0; x + S::width <= rows.width; x += S::width) {
    transform_columns<S, W, false>(rows, S::width, points, plane, step, sums);
    rows.data += S::width, points += S::width, sums.windows += S::width, sums.squares += S::width;
  }
  if (rest > 0) transform_columns<S, W, true>(rows, rest, points, plane, step, sums);
}

template <class S, class W>
[[gnu::always_inline]] inline void load_results(const typename S::Scalar* products, int64_t point_step,
                                                typename S::Vector (&y)[W::kOutputs]) {
  typename S::Vector m[W::kProducts];
#pragma GCC unroll 8
  for (int i = 0; i < W::kProducts; ++i) m[i] = S::load(products + i * point_step);
  W::transform_output(m, y);
}

// The maximum of a window in scan order; its argmax only where it is wanted.
template <class S, bool kArgmax>
[[gnu::always_inline]] inline Maximum<S> pool_window(typename S::Vector a, typename S::Vector b,
                                                     typename S::Vector c, typename S::Vector d) {
  if constexpr (!kArgmax) return Maximum<S>(S::max_of(S::max_of(a, b), S::max_of(c, d)));
  Maximum<S> best(a);
  best.offer(b, 1);
  best.offer(c, 2);
  best.offer(d, 3);
  return best;
}

// The output rows of a tile.
template <class S, class W>
void write_rows(const typename S::Scalar* products, int64_t step, int64_t rows, int64_t columns,
                typename S::Scalar* output) {
  for (int64_t x = 0; x < columns; x += S::width) {
    typename S::Vector y[W::kOutputs];
    load_results<S, W>(products + x, step, y);
    const int n = static_cast<int>(std::min<int64_t>(S::width, columns - x));
#pragma GCC unroll 4
    for (int i = 0; i < W::kOutputs; ++i) {
      if (i < rows) S::store_partial(output + i * columns + x, y[i], n);
    }
  }
}

// The same, pooled.
template <class S, class W, bool kArgmax>
void pool_rows(const typename S::Scalar* products, int64_t step, int64_t rows, int64_t columns,
               typename S::Scalar* output, uint8_t* argmax) {
  for (int64_t x = 0; x < columns; x += S::width) {
    typename S::Vector y[W::kOutputs], next[W::kOutputs];
    load_results<S, W>(products + 2 * x, step, y);
    load_results<S, W>(products + 2 * x + S::width, step, next);
    const int n = static_cast<int>(std::min<int64_t>(S::width, columns - x));
#pragma GCC unroll 2
    for (int i = 0; i < W::kOutputs / 2; ++i) {
      if (i >= rows) break;
      const typename S::Vector *upper = &y[2 * i], *upper_next = &next[2 * i];
      const Maximum<S> best =
          pool_window<S, kArgmax>(S::even(upper[0], upper_next[0]), S::odd(upper[0], upper_next[0]),
                                  S::even(upper[1], upper_next[1]), S::odd(upper[1], upper_next[1]));
      store_maximum<S, false>(best, output + i * columns + x, kArgmax ? argmax + i * columns + x : nullptr,
                              n);
    }
  }
}

// The same with output channels as lanes, `channels` of a pixel side by side, whole vectors. The output's rows
// lie row_size apart.
template <class S, class W>
void write_pixels(const typename S::Scalar* products, int64_t step, int64_t rows, int64_t count,
                  int64_t row_size, typename S::Scalar* output) {
  for (int64_t i = 0; i < count; i += S::width) {
    typename S::Vector y[W::kOutputs];
    load_results<S, W>(products + i, step, y);
#pragma GCC unroll 4
    for (int r = 0; r < W::kOutputs; ++r) {
      if (r < rows) S::store(output + r * row_size + i, y[r]);
    }
  }
}

template <class S, class W, bool kArgmax>
void pool_pixels(const typename S::Scalar* products, int64_t step, int64_t rows, int64_t columns,
                 int64_t channels, int64_t row_size, typename S::Scalar* output, typename S::Scalar* argmax) {
  for (int64_t x = 0; x < columns; ++x, products += channels) {
    for (int64_t o = 0; o < channels; o += S::width, products += S::width) {
      typename S::Vector y[W::kOutputs], next[W::kOutputs];
      load_results<S, W>(products, step, y);
      load_results<S, W>(products + channels, step, next);
#pragma GCC unroll 2
      for (int r = 0; r < W::kOutputs / 2; ++r) {
        if (r >= rows) break;
        const Maximum<S> best = pool_window<S, kArgmax>(y[2 * r], next[2 * r], y[2 * r + 1], next[2 * r + 1]);
        const int64_t to = r * row_size + x * channels + o;
        S::store(output + to, best.value);
        if constexpr (kArgmax) S::store(argmax + to, best.argmax);
      }
    }
  }
}

}  // namespace lenet_ext::cpu
