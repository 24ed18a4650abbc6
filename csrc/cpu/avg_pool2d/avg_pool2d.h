// Averages over windows given by tables, of contiguous planes: avg_pool2d and adaptive_avg_pool2d, and their
// gradient. The rows of a window are summed first, in vectors along the columns, whatever the windows are;
// then the columns.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/avg_pool2d/columns.h"
#include "cpu/microkernels/lanes.h"

namespace lenet_ext::cpu {

template <class S>
class AvgPool2d {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  explicit AvgPool2d(const WindowPool2dShape& shape) : s_(shape) {
    for (const PoolWindow& row : s_.rows.windows) {
      for (const PoolWindow& column : s_.columns.windows) {
        divisors_.push_back(static_cast<T>(row.divisor * column.divisor));
      }
    }
    const WindowAxis& a = s_.columns;
    // Rows that windows tile lie one after the other, so that vectors are full however short the rows are.
    flat_ = a.is_tiled();
    pitch_ = flat_ ? a.size : a.size + a.pad;
    if (!flat_ && a.is_regular()) pitch_ = std::max(pitch_, (a.out_size + spread_margin(a)) * a.stride);
  }

  void forward(int64_t planes, const T* x, T* y) const {
    if (s_.out_plane() == 0) return;
    if (s_.is_global()) return global(planes, x, y);
    const int64_t rows = s_.rows.out_size, columns = s_.columns.out_size, together = flat_ ? rows : 1;
    ZeroedRows<S> sums(rows * pitch_ + s_.columns.kernel + S::width);
    for (int64_t plane = 0; plane < planes; ++plane, x += s_.in_plane(), y += s_.out_plane()) {
      for (int64_t i = 0; i < rows; ++i)
        add_rows(s_.rows.windows[i], x, sums.data() + i * pitch_ + s_.columns.pad);
      for (int64_t i = 0; i < rows; i += together) {
        average_columns<S>(s_.columns, together * columns, sums.data() + i * pitch_,
                           divisors_.data() + i * columns, y + i * columns);
      }
    }
  }

  void backward(int64_t planes, const T* grad_y, T* grad_x) const {
    if (s_.is_global()) return global_grad(planes, grad_y, grad_x);
    const int64_t rows = s_.rows.out_size, columns = s_.columns.out_size, margin = spread_margin(s_.columns);
    // The quotients of a row, or of tiled rows, with zeros around them; and what they spread.
    const int64_t together = flat_ ? rows : 1;
    ZeroedRows<S> shares(together * columns + 2 * margin), spread(rows * pitch_ + S::width);
    for (int64_t plane = 0; plane < planes; ++plane, grad_x += s_.in_plane(), grad_y += s_.out_plane()) {
      for (int64_t i = 0; i < rows; i += together) {
        const int64_t count = together * columns;
        divide(count, grad_y + i * columns, divisors_.data() + i * columns, shares.data() + margin);
        spread_columns<S>(s_.columns, count, shares.data() + margin, spread.data() + i * pitch_);
      }
      spread_rows(spread.data() + s_.columns.pad, grad_x);
    }
  }

 private:
  // sums (W) = the sum of the rows of a window
  void add_rows(const PoolWindow& window, const T* plane, T* sums) const {
    const int64_t width = s_.columns.size;
    for_each_lanes<S>(width, [&](int64_t i, const auto& load, const auto& store) {
      auto sum = S::zero();
      for (int64_t row = window.begin; row < window.end; ++row)
        sum = S::add(sum, load(plane + row * width + i));
      store(sums + i, sum);
    });
  }

  static void divide(int64_t count, const T* values, const T* divisors, T* quotients) {
    for_each_lanes<S>(count, [&](int64_t i, const auto& load, const auto& store) {
      store(quotients + i, S::div(load(values + i), load(divisors + i)));
    });
  }

  // plane[row] = the sum of the spread rows of the windows with that row
  void spread_rows(const T* spread, T* plane) const {
    const int64_t width = s_.columns.size;
    int64_t written = 0;  // rows of the plane that are
    for (const PoolWindow& window : s_.rows.windows) {
      if (window.begin > written) {
        std::fill_n(plane + written * width, (window.begin - written) * width, T(0));
        written = window.begin;
      }
      for (int64_t row = window.begin; row < window.end; ++row) {
        T* const to = plane + row * width;
        for_each_lanes<S>(width, [&](int64_t i, const auto& load, const auto& store) {
          store(to + i, row < written ? S::add(load(to + i), load(spread + i)) : load(spread + i));
        });
      }
      written = std::max(written, window.end);
      spread += pitch_;
    }
    std::fill_n(plane + written * width, (s_.rows.size - written) * width, T(0));
  }

  void global(int64_t planes, const T* x, T* y) const {
    constexpr int kWays = 4;  // independent sums, for the latency of an addition
    const int64_t size = s_.in_plane();
    for (int64_t plane = 0; plane < planes; ++plane, x += size) {
      V sums[kWays] = {};
      int64_t i = 0;
      for (; i + kWays * S::width <= size; i += kWays * S::width) {
        for (int way = 0; way < kWays; ++way) sums[way] = S::add(sums[way], S::load(x + i + way * S::width));
      }
      for_each_lanes<S>(size - i, [&](int64_t j, const auto& load, const auto&) {
        sums[0] = S::add(sums[0], load(x + i + j));
      });
      for (int way = 1; way < kWays; ++way) sums[0] = S::add(sums[0], sums[way]);
      y[plane] = S::reduce_add(sums[0]) / divisors_[0];
    }
  }

  void global_grad(int64_t planes, const T* grad_y, T* grad_x) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      std::fill_n(grad_x + plane * s_.in_plane(), s_.in_plane(), grad_y[plane] / divisors_[0]);
    }
  }

  const WindowPool2dShape s_;
  std::vector<T> divisors_;  // of an output plane
  bool flat_;
  int64_t pitch_;  // from row to row of sums
};

}  // namespace lenet_ext::cpu
