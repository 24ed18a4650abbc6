// Which outputs of F(4x4, 3x3) are exact enough: the condition of winograd_guard.h, of the 6x6 pixels that a tile reads
// and the window of each output. The sums are taken of the planes, before channels become lanes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/conv2d/winograd_nested_plan.h"
#include "cpu/conv2d/winograd_range.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class NestedWinogradGuard {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  using Plan = NestedWinogradPlan<S>;
  static constexpr int kSide = Plan::kSide, kOutputs = Plan::kOutputs, kTaps = 3;

 public:
  NestedWinogradGuard(const Plan& plan, T unevenness)
      : p_(plan),
        factor_(unevenness / kLimit),
        height_(plan.block_rows * kOutputs + kTaps - 1),
        pitch_((plan.tile_columns * kOutputs + kTaps - 1 + S::width - 1) / S::width * S::width + S::width),
        memory_((2 * height_ + kRows) * pitch_),
        magnitudes_(memory_.data()),
        squares_(magnitudes_ + height_ * pitch_),
        windows_(squares_ + height_ * pitch_),
        least_(windows_ + kOutputs * pitch_),
        totals_(least_ + pitch_),
        sizes_(totals_ + pitch_) {
    std::fill_n(memory_.data(), (2 * height_ + kRows) * pitch_, T(0));  // the padding stays zero
    for (int64_t x = 0; x < S::width + kOutputs; ++x) weights_[x] = weight(x);
  }

  // Takes the sums of what tile rows [first, first + count) of an image read.
  void read(const T* image, int64_t first, int64_t count) {
    const Conv2dShape& s = p_.shape;
    const int64_t top = first * kOutputs - s.pad_top, rows = count * kOutputs + kTaps - 1;
    for (int64_t y = 0; y < rows; ++y) {
      T* const magnitudes = magnitudes_ + y * pitch_ + s.pad_left;
      T* const squares = squares_ + y * pitch_ + s.pad_left;
      // Columns beyond the last tile are read by none.
      const int64_t width = std::min(s.width, pitch_ - S::width - s.pad_left);
      if (top + y < 0 || top + y >= s.height) {
        std::fill_n(magnitudes, width, T(0)), std::fill_n(squares, width, T(0));
        continue;
      }
      const T* const row = image + (top + y) * s.width;
      for (int64_t x = 0; x < width; x += S::width) {
        const int lanes = static_cast<int>(std::min<int64_t>(S::width, width - x));
        lanes == S::width ? sum_channels<false>(row + x, lanes, magnitudes + x, squares + x)
                          : sum_channels<true>(row + x, lanes, magnitudes + x, squares + x);
      }
    }
  }

  // Prepares refused() for tile row `row` of those that were read, of which `needed` output rows are asked for.
  void enter(int64_t row, int64_t needed) {
    const T* const magnitudes = magnitudes_ + row * kOutputs * pitch_;
    const T* const squares = squares_ + row * kOutputs * pitch_;
    rows_ = std::min<int64_t>(needed, kOutputs);
    for (int64_t x = 0; x < p_.tile_columns * kOutputs + kTaps - 1; x += S::width) {
      V total = S::zero(), size = S::zero();
      for (int64_t y = 0; y < kSide; ++y) {
        total = S::add(total, S::load(squares + y * pitch_ + x));
        size = S::add(size, S::load(magnitudes + y * pitch_ + x));
      }
      S::store(totals_ + x, total), S::store(sizes_ + x, size);
    }
    for (int64_t x = 0; x < p_.tile_columns * kOutputs; x += S::width) {
      V least = S::broadcast(std::numeric_limits<T>::infinity());
      for (int64_t y = 0; y < rows_; ++y) {
        V window = S::zero();
        for (int64_t tap = 0; tap < kTaps * kTaps; ++tap) {
          window = S::add(window, S::load(magnitudes + (y + tap / kTaps) * pitch_ + x + tap % kTaps));
        }
        window = S::mul(window, S::mul(S::broadcast(weight(y)), S::load(weights_ + x % kOutputs)));
        S::store(windows_ + y * pitch_ + x, window);
        least = S::min(window, least);
      }
      S::store(least_ + x, least);
    }
  }

  // The outputs of a tile of that row that are to be summed directly, a bit for each, [row][column]; none where all
  // that the tile reads is zero, whose results are exact.
  uint32_t refused(int64_t tile) const {
    const int64_t left = tile * kOutputs, columns = std::min<int64_t>(p_.columns - left, kOutputs);
    T total = 0, size = 0, smallest = least_[left];
    for (int64_t x = left; x < left + kSide; ++x) total += totals_[x], size += sizes_[x];
    for (int64_t x = left + 1; x < left + columns; ++x) smallest = std::min(smallest, least_[x]);
    if (size == 0) return 0;
    const bool in_range = total <= static_cast<T>(kLargestSquare);
    const T least = total * factor_ + static_cast<T>(kLeastSquare);
    if (in_range && smallest * smallest >= least) return 0;
    uint32_t refused = 0;
    for (int64_t y = 0; y < rows_; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        const T window = windows_[y * pitch_ + left + x];
        const bool passes = in_range && window * window >= least;
        refused |= uint32_t{!passes} << (y * kOutputs + x);
      }
    }
    return refused;
  }

 private:
  static constexpr T kLimit = T(0.15);
  // Of the four outputs of a tile along an axis the errors of the first and of the last are larger: a window of
  // another counts for as much more.
  static constexpr T kInner = T(1.4);
  static constexpr T weight(int64_t output) {
    return output % kOutputs == 0 || output % kOutputs == kOutputs - 1 ? T(1) : kInner;
  }
  static constexpr int64_t kRows = kOutputs + 3;  // windows_, least_, totals_, sizes_

  // Of a vector of columns, over all channels. Two sums of each run side by side to hide the latency.
  template <bool kPartial>
  void sum_channels(const T* row, int lanes, T* magnitudes, T* squares) const {
    const int64_t plane = p_.shape.height * p_.shape.width, channels = p_.shape.in_channels;
    const auto load = [lanes](const T* from) {
      return kPartial ? S::load_partial(from, lanes) : S::load(from);
    };
    V sizes[2] = {S::zero(), S::zero()}, totals[2] = {S::zero(), S::zero()};
    for (int64_t c = 0; c + 1 < channels; c += 2, row += 2 * plane) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const V value = load(row + i * plane);
        sizes[i] = S::add(sizes[i], S::abs(value)), totals[i] = S::fma(value, value, totals[i]);
      }
    }
    if (channels % 2 == 1) {
      const V value = load(row);
      sizes[0] = S::add(sizes[0], S::abs(value)), totals[0] = S::fma(value, value, totals[0]);
    }
    const V size = S::add(sizes[0], sizes[1]), total = S::add(totals[0], totals[1]);
    kPartial ? S::store_partial(magnitudes, size, lanes) : S::store(magnitudes, size);
    kPartial ? S::store_partial(squares, total, lanes) : S::store(squares, total);
  }

  const Plan& p_;
  const T factor_;
  const int64_t height_, pitch_;
  Scratch<T> memory_;
  T *const magnitudes_, *const squares_;           // by pixel, with padding
  T* const windows_;                               // by column, of each output row of a tile row
  T *const least_, *const totals_, *const sizes_;  // by column of a tile row
  T weights_[S::width + kOutputs];                 // of output columns
  int64_t rows_ = 0;                               // of the outputs of that row that are needed
};

}  // namespace lenet_ext::cpu
