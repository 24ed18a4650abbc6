// The maximum of each window of contiguous planes and its position in the plane, by ATen's rules: of equal
// values the first in the plane's order, of NaNs the last.
#pragma once

#include "cpu/max_pool2d/window.h"
#include "pool_shapes.h"

namespace lenet_ext::cpu {

template <class T>
struct PlaneMaximum {
  T value;
  int64_t argmax;

  // In the plane's order.
  void offer(T candidate, int64_t at) {
    if (candidate > value || candidate != candidate) value = candidate, argmax = at;
  }
  // In any order.
  void merge(const PlaneMaximum& other) {
    const bool is_nan = value != value, other_is_nan = other.value != other.value;
    const bool wins = is_nan || other_is_nan ? other_is_nan && (!is_nan || other.argmax > argmax)
                      : value == other.value ? other.argmax < argmax
                                             : other.value > value;
    if (wins) *this = other;
  }
};

// Of a whole plane. Each lane has a maximum of its own, the first of vectors that it goes through.
template <class S, class T = typename S::Scalar>
PlaneMaximum<T> plane_maximum(const T* plane, int64_t size) {
  Maximum<S> best(int64_t{0});
  const int64_t whole = size - size % S::width;
  for (int64_t i = 0; i < whole; i += S::width) best.offer(S::load(plane + i), i);
  T values[S::width], vectors[S::width];
  S::store(values, best.value), S::store(vectors, best.argmax);
  PlaneMaximum<T> maximum{-std::numeric_limits<T>::infinity(), 0};
  for (int lane = 0; lane < S::width && whole > 0; ++lane) {
    maximum.merge({values[lane], static_cast<int64_t>(vectors[lane]) + lane});
  }
  for (int64_t i = whole; i < size; ++i) maximum.offer(plane[i], i);
  return maximum;
}

// argmax: of each output; may be null.
template <class S, class T = typename S::Scalar>
void adaptive_max_pool2d(const WindowPool2dShape& s, int64_t planes, const T* x, T* y, int32_t* argmax) {
  const auto put = [&](const PlaneMaximum<T>& maximum) {
    *y++ = maximum.value;
    if (argmax != nullptr) *argmax++ = static_cast<int32_t>(maximum.argmax);
  };
  for (int64_t plane = 0; plane < planes; ++plane, x += s.in_plane()) {
    if (s.is_global()) {
      put(plane_maximum<S>(x, s.in_plane()));
      continue;
    }
    for (const PoolWindow& rows : s.rows.windows) {
      for (const PoolWindow& columns : s.columns.windows) {
        PlaneMaximum<T> maximum{-std::numeric_limits<T>::infinity(),
                                rows.begin * s.columns.size + columns.begin};
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          for (int64_t column = columns.begin; column < columns.end; ++column) {
            const int64_t at = row * s.columns.size + column;
            maximum.offer(x[at], at);
          }
        }
        put(maximum);
      }
    }
  }
}

template <class S, class T = typename S::Scalar>
void adaptive_max_pool2d_grad(const WindowPool2dShape& s, int64_t planes, const T* grad_y,
                              const int32_t* argmax, T* grad_x) {
  for (int64_t plane = 0; plane < planes; ++plane, grad_x += s.in_plane()) {
    std::fill_n(grad_x, s.in_plane(), T(0));
    for (int64_t i = 0; i < s.out_plane(); ++i) grad_x[*argmax++] += *grad_y++;
  }
}

}  // namespace lenet_ext::cpu
