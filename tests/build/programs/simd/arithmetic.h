// What computes and compares lane by lane.
#pragma once

#include "check.h"

namespace lenet_ext::simd {

template <class S>
void test_constants() {
  expect_vector<S>("zero", S::zero(), Elements<S>{});
  for (const typename S::Scalar value : special_values<typename S::Scalar>()) {
    Elements<S> expected;
    expected.fill(value);
    expect_vector<S>("broadcast", S::broadcast(value), expected);
  }
}

template <class S>
void test_square_roots() {
  for (const typename S::Scalar value : special_values<typename S::Scalar>()) {
    const Elements<S> root = elements_of<S>(S::sqrt(S::broadcast(value)));
    for (int i = 0; i < S::width; ++i) expect_bits_or_nan("sqrt", i, root[i], std::sqrt(value));
  }
}

template <class S>
void test_sums() {
  using T = typename S::Scalar;
  for_each_tuple<S, 2>([](const auto& operands) {
    const auto& [a, b] = operands;
    const Elements<S> sum = elements_of<S>(S::add(vector_of<S>(a), vector_of<S>(b)));
    const Elements<S> difference = elements_of<S>(S::sub(vector_of<S>(a), vector_of<S>(b)));
    const Elements<S> product = elements_of<S>(S::mul(vector_of<S>(a), vector_of<S>(b)));
    const Elements<S> quotient = elements_of<S>(S::div(vector_of<S>(a), vector_of<S>(b)));
    for (int i = 0; i < S::width; ++i) {
      expect_bits_or_nan("add", i, sum[i], a[i] + b[i]);
      expect_bits_or_nan("sub", i, difference[i], a[i] - b[i]);
      expect_bits_or_nan("mul", i, product[i], a[i] * b[i]);
      expect_bits_or_nan("div", i, quotient[i], a[i] / b[i]);
    }
  });
  for_each_tuple<S, 3>([](const auto& operands) {
    const auto& [a, b, c] = operands;
    const Elements<S> actual = elements_of<S>(S::fma(vector_of<S>(a), vector_of<S>(b), vector_of<S>(c)));
    for (int i = 0; i < S::width; ++i) {
      T expected = std::fma(a[i], b[i], c[i]);
      // Plain C++ leaves it to the compiler whether the product is rounded.
      const volatile T product = a[i] * b[i];
      if (S::width == 1 && bits_of(actual[i]) != bits_of(expected)) expected = product + c[i];
      expect_bits_or_nan("fma", i, actual[i], expected);
    }
  });
  // Each lane counts once, in whatever order they are added.
  Elements<S> powers;
  for (int i = 0; i < S::width; ++i) powers[i] = static_cast<T>(1 << i);
  expect_bits("reduce_add", 0, S::reduce_add(vector_of<S>(powers)), static_cast<T>((1 << S::width) - 1));
}

template <class S>
void test_maxima() {
  for_each_tuple<S, 2>([](const auto& operands) {
    const auto& [a, b] = operands;
    const Elements<S> bounded = elements_of<S>(S::max_or_nan(vector_of<S>(a), vector_of<S>(b)));
    const Elements<S> larger = elements_of<S>(S::max_of(vector_of<S>(a), vector_of<S>(b)));
    for (int i = 0; i < S::width; ++i) {
      expect_bits("max_or_nan", i, bounded[i], a[i] < b[i] ? b[i] : a[i]);
      const typename S::Scalar expected = a[i] > b[i] || std::isnan(a[i]) ? a[i] : b[i];
      // Of two zeros it may be either.
      if (larger[i] != expected) expect_bits_or_nan("max_of", i, larger[i], expected);
    }
  });
}

template <class S>
void test_products() {
  using T = typename S::Scalar;
  for_each_tuple<S, 2>([](const auto& operands) {
    const auto& [a, b] = operands;
    const typename S::Vector first = vector_of<S>(a), second = vector_of<S>(b);
    const Elements<S> product = elements_of<S>(S::mul(first, second));
    const Elements<S> quotient = elements_of<S>(S::div(first, second));
    const Elements<S> bounded = elements_of<S>(S::min_or_nan(first, second));
    const Elements<S> with_sign = elements_of<S>(S::copy_sign(first, second));
    for (int i = 0; i < S::width; ++i) {
      expect_bits_or_nan("mul", i, product[i], a[i] * b[i]);
      expect_bits_or_nan("div", i, quotient[i], a[i] / b[i]);
      expect_bits("min_or_nan", i, bounded[i], a[i] > b[i] ? b[i] : a[i]);
      expect_bits("copy_sign", i, with_sign[i], std::copysign(a[i], b[i]));
    }
  });
  for (const T value : {T(0), T(0.25), T(0.5), T(1.5), T(2.5), T(-0.5), T(-3.5), T(-7.6), T(1e6) + T(0.5)}) {
    const Elements<S> rounded = elements_of<S>(S::round(S::broadcast(value)));
    for (int i = 0; i < S::width; ++i) check(rounded[i] == std::nearbyint(value), "round", i, 0, 0);
  }
  constexpr int kMost = std::numeric_limits<T>::max_exponent;
  for (const T value : {T(1), T(0.75), T(-1.25), T(1) + std::numeric_limits<T>::epsilon()}) {
    for (int n = -kMost - 30; n <= kMost + 2; ++n) {
      const typename S::Vector power = S::times_power_of_2(S::broadcast(value), S::broadcast(n));
      Elements<S> expected;
      expected.fill(std::ldexp(value, n));
      expect_vector<S>("times_power_of_2", power, expected);
    }
  }
  const Elements<S> powers =
      elements_of<S>(S::times_power_of_2(S::broadcast(1), vector_of<S>(numbered<S>(-3))));
  for (int i = 0; i < S::width; ++i) expect_bits("times_power_of_2", i, powers[i], std::ldexp(T(1), i - 3));
}

template <class S>
void expect_mask(const char* what, typename S::Mask mask, const std::array<bool, S::width>& expected) {
  const Elements<S> yes = numbered<S>(1), no = numbered<S>(100);
  const Elements<S> chosen = elements_of<S>(S::select(mask, vector_of<S>(yes), vector_of<S>(no)));
  for (int i = 0; i < S::width; ++i) expect_bits(what, i, chosen[i], expected[i] ? yes[i] : no[i]);
}

template <class S>
void test_comparisons() {
  for_each_tuple<S, 2>([](const auto& operands) {
    const auto& [a, b] = operands;
    const typename S::Vector first = vector_of<S>(a), second = vector_of<S>(b);
    std::array<bool, S::width> positive, not_positive, greater_or_nan, equal, less_equal;
    for (int i = 0; i < S::width; ++i) {
      positive[i] = a[i] > 0, not_positive[i] = a[i] <= 0;
      greater_or_nan[i] = a[i] > b[i] || std::isnan(a[i]);
      equal[i] = a[i] == b[i], less_equal[i] = a[i] <= b[i];
    }
    expect_mask<S>("positive", S::positive(first), positive);
    expect_mask<S>("not_positive", S::not_positive(first), not_positive);
    expect_mask<S>("greater_or_nan", S::greater_or_nan(first, second), greater_or_nan);
    expect_mask<S>("equal", S::equal(first, second), equal);
    expect_mask<S>("less_equal", S::less_equal(first, second), less_equal);
    // All bits of what is chosen stay, NaNs' too.
    for (bool yes : {false, true}) {
      const typename S::Vector one = S::broadcast(1), other = S::broadcast(yes ? 1 : 2);
      expect_vector<S>("select", S::select(S::equal(one, other), first, second), yes ? a : b);
    }
  });
}

template <class S>
void test_arithmetic() {
  test_constants<S>();
  test_sums<S>();
  test_products<S>();
  test_maxima<S>();
  test_square_roots<S>();
  test_comparisons<S>();
}

}  // namespace lenet_ext::simd
