// Where Winograd's method is exact enough, and where the outputs of a tile are to be summed directly.
//
// The rounding errors of a tile are about as large as the norm of all that the tile reads: an outlier in one
// row spoils outputs whose own windows do not hold it. A direct sum's errors follow the output's own products.
// So an output is left to the method only if
//
//   u |tile|_2^2 <= limit |window|_1^2,     u = the largest n |w|_2^2 / |w|_1^2 of all filters w
//
// where `tile` is what the tile reads in the output's columns, `window` what the output reads, and n the number
// of products. For values of one size |window|_1^2 is n^2 and |tile|_2^2 at most 2 n, for filters drawn from a
// normal distribution u is 1.6. So the condition holds by a wide margin where an output has many products. A
// value that outweighs the rest of its window fails it, wherever it is: its weight may happen to be small, and
// then so is the sum of products by which the error is to be judged. The limits were found by measurement, for
// errors below eight times those of the direct sum (docs/kernels.md).
//
// Nor are values left to the method whose squares leave the range of floats, infinities and NaNs among them.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/conv2d/winograd_plan.h"
#include "cpu/conv2d/winograd_range.h"
#include "cpu/conv2d/winograd_rows.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// Output columns [begin, end).
struct Columns {
  int64_t begin, end;

  int64_t count() const { return end - begin; }
  bool empty() const { return begin >= end; }
};

template <class S>
class WinogradGuard {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  WinogradGuard(const WinogradPlan<S>& plan, T unevenness)
      : p_(plan),
        factor_(unevenness / (plan.points == 4 ? kLimitOfFourPoints : kLimit)),
        pitch_((plan.pitch + S::width - 1) / S::width * S::width + S::width),
        memory_((2 * plan.block_tiles + 1) * pitch_),
        beyond_(memory_.data() + 2 * plan.block_tiles * pitch_) {
    std::fill_n(memory_.data(), (2 * plan.block_tiles + 1) * pitch_, T(0));
    std::fill_n(beyond_ + reach(), pitch_ - reach(), std::numeric_limits<T>::infinity());
  }

  // Where the sums of a tile of the block belong, as they are without padding.
  TileSums<T> sums(int64_t i, int64_t tile) {
    T* const windows = memory_.data() + 2 * i * pitch_ + p_.shape.pad_left;
    return {windows, windows + pitch_, p_.rows - tile * p_.outputs};
  }

  // The output columns of a block of tiles that are to be summed directly, from the first to the last; an even
  // number of them from an even one, for the pool.
  template <class W>
  Columns direct(const T* image, int64_t tile, int64_t count) const {
    if (p_.shape.kernel_width == W::kTaps ? all_pass<W::kTaps>(count) : all_pass<0>(count)) return {0, 0};
    Columns found{p_.columns(), 0};
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t x = 0; x < p_.columns(); ++x) {
        if (passes(i, x) || is_zero<W>(image, tile + i, x)) continue;
        found.begin = std::min(found.begin, x), found.end = std::max(found.end, x + 1);
      }
    }
    if (found.empty() || !p_.pooled) return found;
    return {found.begin / 2 * 2, (found.end + 1) / 2 * 2};
  }

 private:
  static constexpr T kLimit = T(0.3), kLimitOfFourPoints = T(1);

  // Of the places where windows begin; with a stride not all of them are asked for.
  int64_t reach() const { return (p_.columns() - 1) * p_.shape.stride_w + 1; }

  // Whether all columns of a block pass, for certain, and with a stride those between them. kKernelWidth: 0 where it
  // is not known.
  template <int kKernelWidth>
  bool all_pass(int64_t count) const {
    const V factor = S::broadcast(-factor_);
    V total = S::zero(), least = S::broadcast(static_cast<T>(kLargestSquare));
    for (const T* windows = memory_.data(); windows != memory_.data() + 2 * count * pitch_;
         windows += 2 * pitch_) {
      for (int64_t x = 0; x < reach(); x += S::width) {
        V window = S::zero(), squares = S::zero();
        for (int64_t k = 0; k < (kKernelWidth > 0 ? kKernelWidth : p_.shape.kernel_width); ++k) {
          window = S::add(window, S::load(windows + x + k));
          squares = S::add(squares, S::load(windows + pitch_ + x + k));
        }
        const V margin = S::fma(squares, factor, S::fma(window, window, S::load(beyond_ + x)));
        total = S::add(total, squares), least = S::min(least, margin);
      }
    }
    const V failed = S::select(S::greater_or_nan(S::broadcast(static_cast<T>(kLeastSquare)), least),
                               S::broadcast(1), S::zero());
    return S::reduce_add(total) <= static_cast<T>(kLargestSquare) && S::reduce_add(failed) == 0;
  }

  bool passes(int64_t i, int64_t column) const {
    const T* const windows = memory_.data() + 2 * i * pitch_ + column * p_.shape.stride_w;
    const auto sum = [this](const T* row) { return std::accumulate(row, row + p_.shape.kernel_width, T(0)); };
    const T window = sum(windows), squares = sum(windows + pitch_);
    return squares <= static_cast<T>(kLargestSquare) &&
           window * window - squares * factor_ >= static_cast<T>(kLeastSquare);
  }

  // Whether a tile is all zero in the columns of an output, whose result is then exact.
  template <class W>
  bool is_zero(const T* image, int64_t tile, int64_t column) const {
    const Conv2dShape& s = p_.shape;
    const int64_t top = tile * p_.outputs * s.stride_h - s.pad_top, left = column * s.stride_w - s.pad_left;
    for (int64_t c = 0; c < s.in_channels; ++c, image += s.height * s.width) {
      for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + W::kPoints * s.stride_h, s.height);
           ++y) {
        for (int64_t x = std::max<int64_t>(left, 0); x < std::min(left + s.kernel_width, s.width); ++x) {
          if (image[y * s.width + x] != 0) return false;
        }
      }
    }
    return true;
  }

  const WinogradPlan<S>& p_;
  const T factor_;
  const int64_t pitch_;
  Scratch<T> memory_;  // for each tile of a block a row of windows and one of squares, with padding
  T* const beyond_;    // infinite where no output is needed
};

}  // namespace lenet_ext::cpu
