// The rows of a tile into the Winograd domain and out of it, the latter perhaps through a 2x2 max-pool. W is
// a Winograd (winograd.h); `step` leads from point to point.
#pragma once

#include <algorithm>

#include "cpu/conv2d/winograd.h"
#include "cpu/max_pool2d/window.h"

namespace lenet_ext::cpu {

// The rows of the input that a tile reads, one after the other, to a row of each point.
template <class S, class W>
void transform_rows(const typename S::Scalar* rows, int64_t width, typename S::Scalar* points, int64_t step) {
  typename S::Vector d[W::kPoints], v[W::kPoints];
  int64_t x = 0;
  for (; x + S::width <= width; x += S::width) {
#pragma GCC unroll 8
    for (int i = 0; i < W::kPoints; ++i) d[i] = S::load(rows + i * width + x);
    W::transform_input(d, v);
#pragma GCC unroll 8
    for (int i = 0; i < W::kPoints; ++i) S::store(points + i * step + x, v[i]);
  }
  const int rest = static_cast<int>(width - x);
  if (rest == 0) return;
#pragma GCC unroll 8
  for (int i = 0; i < W::kPoints; ++i) d[i] = S::load_partial(rows + i * width + x, rest);
  W::transform_input(d, v);
#pragma GCC unroll 8
  for (int i = 0; i < W::kPoints; ++i) S::store_partial(points + i * step + x, v[i], rest);
}

template <class S, class W>
void load_results(const typename S::Scalar* products, int64_t point_step,
                  typename S::Vector (&y)[W::kOutputs]) {
  typename S::Vector m[W::kPoints];
#pragma GCC unroll 8
  for (int i = 0; i < W::kPoints; ++i) m[i] = S::load(products + i * point_step);
  W::transform_output(m, y);
}

// The maximum of a window in scan order; its argmax only where it is wanted.
template <class S, bool kArgmax>
Maximum<S> pool_window(typename S::Vector a, typename S::Vector b, typename S::Vector c,
                       typename S::Vector d) {
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

// The same with output channels as lanes, `channels` of a pixel side by side, whole vectors.
template <class S, class W>
void write_pixels(const typename S::Scalar* products, int64_t step, int64_t rows, int64_t row_size,
                  typename S::Scalar* output) {
  for (int64_t i = 0; i < row_size; i += S::width) {
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
                 int64_t channels, typename S::Scalar* output, typename S::Scalar* argmax) {
  const int64_t row_size = columns * channels;
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
