// Sums over the windows of one row, and their transpose: values that each window spreads over its positions.
// Rows lie in buffers with zeros to both sides, where padding would be.
#pragma once

#include <algorithm>

#include "cpu/runtime/scratch.h"
#include "pool_shapes.h"

namespace lenet_ext::cpu {

// Memory of vectors that begin in `count` elements, of zeros.
template <class S>
class ZeroedRows {
  using T = typename S::Scalar;

 public:
  explicit ZeroedRows(int64_t count) : memory_(count + 2 * S::width) {
    std::fill_n(memory_.data(), count + 2 * S::width, T(0));
  }
  T* data() { return memory_.data(); }

 private:
  Scratch<T> memory_;
};

// sums[i] = the sum of window i of `row`, which begins with a.pad zeros, divided by divisors[i]. Of the first
// `count` windows; more than a row has where the rows are tiled by windows and lie one after the other.
template <class S, class T = typename S::Scalar>
void average_columns(const WindowAxis& a, int64_t count, const T* row, const T* divisors, T* averages) {
  const bool vectors = a.is_regular() && a.stride <= 2;
  for (int64_t i = 0; vectors && i < count; i += S::width) {
    const T* const p = row + i * a.stride;
    auto sum = S::zero();
    if (a.stride == 1) {
      for (int64_t k = 0; k < a.kernel; ++k) sum = S::add(sum, S::load(p + k));
    } else {
      for (int64_t k = 0; k < a.kernel; k += 2) {
        const auto low = S::load(p + k), high = S::load(p + k + S::width);
        sum = S::add(sum, S::even(low, high));
        if (k + 1 < a.kernel) sum = S::add(sum, S::odd(low, high));
      }
    }
    if (i + S::width <= count) {
      S::store(averages + i, S::div(sum, S::load(divisors + i)));
    } else {
      const auto rest = static_cast<int>(count - i);
      S::store_partial(averages + i, S::div(sum, S::load_partial(divisors + i, rest)), rest);
    }
  }
  if (vectors) return;
  for (int64_t i = 0, window = 0; i < count; ++i, ++window) {
    if (window == a.out_size) window = 0, row += a.size;
    T sum = 0;
    for (int64_t x = a.windows[window].begin; x < a.windows[window].end; ++x) sum += row[a.pad + x];
    averages[i] = sum / divisors[i];
  }
}

// Zeros that must be before the values of spread_columns: as many windows reach a position besides the last.
inline int64_t spread_margin(const WindowAxis& a) {
  return a.is_regular() && a.stride <= 2 ? (a.kernel + a.stride - 1) / a.stride - 1 : 0;
}

// row[x] = the sum of values[i] over the windows i with position x: the transpose of average_columns without
// the divisors. Writes vectors that begin in count + spread_margin() windows; zeros are around the values.
template <class S, class T = typename S::Scalar>
void spread_columns(const WindowAxis& a, int64_t count, const T* values, T* row) {
  if (a.is_regular() && a.stride <= 2) {
    for (int64_t i = 0; i < count + spread_margin(a); i += S::width) {
      auto even = S::zero(), odd = S::zero();
      for (int64_t k = 0; k < a.kernel; k += a.stride) {
        const auto value = S::load(values + i - k / a.stride);
        even = S::add(even, value);
        if (k + 1 < a.kernel) odd = S::add(odd, value);
      }
      if (a.stride == 1) {
        S::store(row + i, even);
      } else {
        S::store(row + 2 * i, S::interleave_low(even, odd));
        S::store(row + 2 * i + S::width, S::interleave_high(even, odd));
      }
    }
    return;
  }
  for (int64_t i = 0, window = 0; i < count; ++i, ++window) {
    if (window == a.out_size) window = 0, row += a.size;
    if (window == 0) std::fill_n(row, a.pad + a.size, T(0));
    for (int64_t x = a.windows[window].begin; x < a.windows[window].end; ++x) row[a.pad + x] += values[i];
  }
}

}  // namespace lenet_ext::cpu
