// The geometry of pooling windows, and the storage of argmax (positions kh * kernel_width + kw within a
// window).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "dtype.h"
#include "shapes.h"

namespace lenet_ext::cpu {

struct Span {
  int64_t begin, end;
};

// The taps of a window that begins at `start` (negative in the padding) that lie in [0, size).
inline Span taps_inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  const int64_t begin = start < 0 ? (dilation - 1 - start) / dilation : 0;
  const int64_t end = start < size ? std::min(kernel, (size - 1 - start) / dilation + 1) : 0;
  return {begin, std::max(begin, end)};
}

// The output positions along one axis whose windows have all taps in [0, size).
inline Span interior_windows(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                             int64_t out_size) {
  const int64_t last_start = size - 1 - (kernel - 1) * dilation;
  const int64_t end = last_start + pad < 0 ? 0 : std::min(out_size, (last_start + pad) / stride + 1);
  return {std::min((pad + stride - 1) / stride, end), end};
}

// Planes that the windows tile from top to bottom form one high plane.
inline MaxPool2dShape stack_planes(MaxPool2dShape s) {
  if (s.kernel_height == s.stride_h && s.pad_h == 0 && s.dilation_h == 1 &&
      s.out_height * s.stride_h == s.height) {
    s.height *= s.planes(), s.out_height *= s.planes();
    s.batch = 1, s.channels = 1;
  }
  return s;
}

// About the cycles of one output row (of one channel or vector of channels) with `lanes` windows side by
// side.
inline int64_t window_cost(const MaxPool2dShape& s, int lanes) {
  const int64_t taps = std::min(s.kernel_height, s.height) * std::min(s.kernel_width, s.width);
  return 20 + (s.out_width + lanes - 1) / lanes * (5 + 2 * taps);
}

// body(uint8_t*) or body(int32_t*): the storage of argmax for this window size, read-only or not as `argmax`
// is.
template <class Void, class Body>
void with_argmax_type(const MaxPool2dShape& s, Void* argmax, const Body& body) {
  if (s.byte_argmax()) {
    body(static_cast<std::conditional_t<std::is_const_v<Void>, const uint8_t*, uint8_t*>>(argmax));
  } else {
    body(static_cast<std::conditional_t<std::is_const_v<Void>, const int32_t*, int32_t*>>(argmax));
  }
}

// The first n elements of a vector. A window has at most 2^24 positions (shapes.h), which float32 holds
// exactly.
template <class S>
void store_argmax(uint8_t* p, typename S::Vector argmax, int n) {
  S::store_bytes(p, argmax, n);
}
template <class S>
void store_argmax(int32_t* p, typename S::Vector argmax, int n) {
  typename S::Scalar buffer[S::width];
  S::store(buffer, argmax);
  for (int i = 0; i < n; ++i) p[i] = static_cast<int32_t>(buffer[i]);
}

template <class S>
typename S::Vector load_argmax(const uint8_t* p, int n) {
  return S::load_bytes(p, n);
}
template <class S>
typename S::Vector load_argmax(const int32_t* p, int n) {
  typename S::Scalar buffer[S::width] = {};
  for (int i = 0; i < n; ++i) buffer[i] = static_cast<typename S::Scalar>(p[i]);
  return S::load(buffer);
}

// The running maximum of a window and its argmax, the tap where it lies, per lane.
template <class S>
struct Maximum {
  typename S::Vector value = S::broadcast(-std::numeric_limits<typename S::Scalar>::infinity());
  typename S::Vector argmax;

  // The first tap stays if nothing is greater than -inf.
  explicit Maximum(int64_t first_tap) : argmax(S::broadcast(static_cast<typename S::Scalar>(first_tap))) {}
  // The same after an offer of the first tap, 0.
  explicit Maximum(typename S::Vector first) : value(first), argmax(S::zero()) {}

  void offer(typename S::Vector candidate, int64_t tap) {
    const typename S::Mask wins = S::greater_or_nan(candidate, value);
    value = S::select(wins, candidate, value);
    argmax = S::select(wins, S::broadcast(static_cast<typename S::Scalar>(tap)), argmax);
  }
};

template <class S, bool kFull, class Stored>
typename S::Vector load_first(const Stored* p, int n) {
  if constexpr (kFull) {
    return S::load(p);
  } else {
    return S::load_partial(p, n);
  }
}

template <class S, bool kFull, class Stored>
void store_first(Stored* p, typename S::Vector v, int n) {
  if constexpr (kFull) {
    S::store(p, v);
  } else {
    S::store_partial(p, v, n);
  }
}

template <class S, bool kFull, class Stored, class Index>
void store_maximum(const Maximum<S>& best, Stored* output, Index* argmax, int n) {
  store_first<S, kFull>(output, best.value, n);
  if (argmax != nullptr) store_argmax<S>(argmax, best.argmax, kFull ? S::width : n);
}

}  // namespace lenet_ext::cpu
