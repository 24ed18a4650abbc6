// softmax and log_softmax over a dimension, and their gradients from what they gave:
//
//   y = e^(x - max) / sum    grad_x = y * (grad_y - sum of grad_y * y)
//   y = (x - max) - ln sum   grad_x = grad_y - e^y * sum of grad_y       sum = the sum of e^(x - max)
//
// Vectors lie along the dimension where it is the last one, else along the dimensions behind it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/math/exp.h"
#include "cpu/microkernels/lanes.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"
#include "softmax_shape.h"

namespace lenet_ext::cpu {

template <class S>
class Softmax {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr T kLeast = -std::numeric_limits<T>::infinity();

 public:
  // Of one image.
  explicit Softmax(const SoftmaxShape& shape) : s_(shape) {}

  void forward(int64_t images, const T* x, T* y) const {
    const int64_t slice = s_.size * s_.inner;
    // A row whose end is filled up with what adds nothing to maximum and sum.
    const int64_t filled = (s_.size + S::width - 1) / S::width * S::width;
    Scratch<T> row(s_.inner == 1 ? filled : 0);
    for (int64_t i = 0; i < images * s_.outer; ++i, x += slice, y += slice) {
      if (s_.inner == 1) {
        std::fill_n(row.data() + s_.size, filled - s_.size, kLeast);
        forward_row(x, row.data(), y);
      } else {
        forward_columns(x, y);
      }
    }
  }

  // grad_x may be grad_y.
  void backward(int64_t images, const T* y, const T* grad_y, T* grad_x) const {
    const int64_t slice = s_.size * s_.inner;
    for (int64_t i = 0; i < images * s_.outer; ++i, y += slice, grad_y += slice, grad_x += slice) {
      if (s_.inner == 1) {
        backward_row(y, grad_y, grad_x);
      } else {
        backward_columns(y, grad_y, grad_x);
      }
    }
  }

 private:
  void forward_row(const T* x, T* row, T* y) const {
    copy_row<S>(x, row, s_.size);
    V most = S::broadcast(kLeast), sum = S::zero();
    for (int64_t i = 0; i < s_.size; i += S::width) most = S::max_of(most, S::load(row + i));
    T lanes[S::width];
    S::store(lanes, most);
    T maximum = lanes[0];
    for (int i = 1; i < S::width; ++i) maximum = lanes[i] > maximum ? lanes[i] : maximum;
    most = S::broadcast(maximum);
    for (int64_t i = 0; i < s_.size; i += S::width) {
      const V shifted = S::sub(S::load(row + i), most), power = math::exp<S>(shifted);
      sum = S::add(sum, power);
      S::store(row + i, s_.logarithm ? shifted : power);
    }
    const T total = S::reduce_add(sum);
    const V by = S::broadcast(s_.logarithm ? std::log(total) : total);
    for_each_lanes<S>(s_.size, [&](int64_t i, const auto&, const auto& store) {
      const V value = S::load(row + i);
      store(y + i, s_.logarithm ? S::sub(value, by) : S::div(value, by));
    });
  }

  void forward_columns(const T* x, T* y) const {
    for_each_lanes<S>(s_.inner, [&](int64_t column, const auto& load, const auto& store) {
      V most = S::broadcast(kLeast), sum = S::zero();
      for_each_step(column, [&](int64_t i) { most = S::max_of(most, load(x + i)); });
      for_each_step(column, [&](int64_t i) {
        const V shifted = S::sub(load(x + i), most), power = math::exp<S>(shifted);
        sum = S::add(sum, power);
        store(y + i, s_.logarithm ? shifted : power);
      });
      if (s_.logarithm) {
        T lanes[S::width];
        S::store(lanes, sum);
        for (T& lane : lanes) lane = std::log(lane);
        sum = S::load(lanes);
      }
      for_each_step(column, [&](int64_t i) {
        const V value = load(y + i);
        store(y + i, s_.logarithm ? S::sub(value, sum) : S::div(value, sum));
      });
    });
  }

  void backward_row(const T* y, const T* grad_y, T* grad_x) const {
    V sums = S::zero();
    for_each_lanes<S>(s_.size, [&](int64_t i, const auto& load, const auto&) {
      sums = add_term(sums, load(y + i), load(grad_y + i));
    });
    const V sum = S::broadcast(S::reduce_add(sums));
    for_each_lanes<S>(s_.size, [&](int64_t i, const auto& load, const auto& store) {
      store(grad_x + i, gradient(load(y + i), load(grad_y + i), sum));
    });
  }

  void backward_columns(const T* y, const T* grad_y, T* grad_x) const {
    for_each_lanes<S>(s_.inner, [&](int64_t column, const auto& load, const auto& store) {
      V sum = S::zero();
      for_each_step(column, [&](int64_t i) { sum = add_term(sum, load(y + i), load(grad_y + i)); });
      for_each_step(column,
                    [&](int64_t i) { store(grad_x + i, gradient(load(y + i), load(grad_y + i), sum)); });
    });
  }

  V add_term(V sum, V y, V grad_y) const {
    return s_.logarithm ? S::add(sum, grad_y) : S::fma(grad_y, y, sum);
  }
  V gradient(V y, V grad_y, V sum) const {
    if (s_.logarithm) return S::sub(grad_y, S::mul(math::exp<S>(y), sum));
    return S::mul(y, S::sub(grad_y, sum));
  }

  template <class Body>
  void for_each_step(int64_t column, const Body& body) const {
    for (int64_t i = 0; i < s_.size; ++i) body(i * s_.inner + column);
  }

  const SoftmaxShape s_;
};

}  // namespace lenet_ext::cpu
