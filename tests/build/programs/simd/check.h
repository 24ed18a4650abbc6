// What the tests of the wrappers have in common: expectations, the elements of vectors, and values to try.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

namespace lenet_ext::simd {

inline int64_t checks = 0, failures = 0;

template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

inline void check(bool passed, const char* what, int lane, uint64_t actual, uint64_t expected) {
  constexpr int kShown = 20;
  ++checks;
  if (passed || ++failures > kShown) return;
  std::fprintf(stderr, "%s, lane %d: got bits %#llx, expected %#llx\n", what, lane,
               static_cast<unsigned long long>(actual), static_cast<unsigned long long>(expected));
}

template <class T>
void expect_bits(const char* what, int lane, T actual, T expected) {
  check(bits_of(actual) == bits_of(expected), what, lane, bits_of(actual), bits_of(expected));
}

// For computed values: which NaN comes out depends on the processor.
template <class T>
void expect_bits_or_nan(const char* what, int lane, T actual, T expected) {
  check(bits_of(actual) == bits_of(expected) || (std::isnan(actual) && std::isnan(expected)), what, lane,
        bits_of(actual), bits_of(expected));
}

template <class S>
using Elements = std::array<typename S::Scalar, S::width>;

// Not by load and store, which are tested themselves.
template <class S>
Elements<S> elements_of(typename S::Vector v) {
  static_assert(sizeof(v) == sizeof(Elements<S>));
  Elements<S> elements;
  std::memcpy(&elements, &v, sizeof(v));
  return elements;
}
template <class S>
typename S::Vector vector_of(const Elements<S>& elements) {
  typename S::Vector v;
  std::memcpy(&v, &elements, sizeof(v));
  return v;
}

// Elements that all differ: first, first + 1 ...
template <class S>
Elements<S> numbered(int first) {
  Elements<S> elements;
  for (int i = 0; i < S::width; ++i) elements[i] = static_cast<typename S::Scalar>(first + i);
  return elements;
}

template <class S>
void expect_vector(const char* what, typename S::Vector actual, const Elements<S>& expected) {
  for (int i = 0; i < S::width; ++i) expect_bits(what, i, elements_of<S>(actual)[i], expected[i]);
}

template <class T>
constexpr auto special_values() {
  using Limits = std::numeric_limits<T>;
  constexpr T kInfinity = Limits::infinity(), kNan = Limits::quiet_NaN(), kDenormal = Limits::denorm_min();
  return std::array{T(0),           T(-0.0),       kDenormal,
                    -kDenormal,     Limits::min(), -Limits::min() / 2,
                    T(1),           T(-1),         T(1) + Limits::epsilon(),
                    T(-0.7),        T(3e5),        Limits::max(),
                    -Limits::max(), kInfinity,     -kInfinity,
                    kNan,           -kNan};
}

// Calls body(operands, lane-wise tuples of special values) until each tuple was in each lane.
template <class S, int kOperands, class Body>
void for_each_tuple(const Body& body) {
  constexpr auto kValues = special_values<typename S::Scalar>();
  int64_t tuples = 1;
  for (int k = 0; k < kOperands; ++k) tuples *= kValues.size();
  for (int64_t first = 0; first < tuples; ++first) {
    std::array<Elements<S>, kOperands> operands;
    for (int lane = 0; lane < S::width; ++lane) {
      int64_t tuple = (first + lane) % tuples;
      for (Elements<S>& operand : operands) {
        operand[lane] = kValues[tuple % kValues.size()];
        tuple /= kValues.size();
      }
    }
    body(operands);
  }
}

}  // namespace lenet_ext::simd
