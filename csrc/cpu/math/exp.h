// exp and expm1: x = n ln 2 + r, |r| <= ln(2) / 2, and e^r - 1 = r + r^2 q(r).
#pragma once

#include "cpu/math/polynomial.h"

namespace lenet_ext::cpu::math {

template <class T>
struct ExpConstants;

// ln 2 in two parts: n times the first is exact without a fused multiply-add, too.
template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  static constexpr float kLeast = -104, kMost = 89;  // e^x is 0 below and infinite above
  static constexpr float kLeastExpm1 = -18;          // e^x - 1 is -1 below
  static constexpr float kQ[] = {0.500000001F,   0.166666667F,   0.0416664634F,
                                 0.00833331075F, 0.00139338205F, 0.000198911802F};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.4426950408889634, kLn2High = 6.93147180369123816490e-01,
                          kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLeast = -746, kMost = 710, kLeastExpm1 = -38;
  static constexpr double kQ[] = {0.5,
                                  0.16666666666666671,
                                  0.04166666666666667,
                                  0.008333333333326025,
                                  0.001388888888888367,
                                  0.00019841269875205077,
                                  2.4801587325822282e-5,
                                  2.7557254913486702e-6,
                                  2.7557273295539724e-7,
                                  2.5105419192016336e-8,
                                  2.0914831351380411e-9};
};

// e^x = 2^n (1 + r + rest): the sums of the last three are left to what rounds them last.
template <class S>
struct ReducedExp {
  using V = typename S::Vector;
  V n, r, rest;

  // Of x + low, where low is much less.
  explicit ReducedExp(V x, V low = S::zero()) {
    using C = ExpConstants<typename S::Scalar>;
    n = S::round(S::mul(x, S::broadcast(C::kLog2E)));
    const V high = S::fma(n, S::broadcast(-C::kLn2High), x);
    const V more = S::fma(n, S::broadcast(-C::kLn2Low), low);
    r = S::add(high, more);
    const V rounded_off = S::add(S::sub(high, r), more);
    rest = S::fma(S::mul(r, r), polynomial<S>(r, C::kQ), rounded_off);
  }
};

// e^(x + low), where low is much less.
template <class S>
typename S::Vector exp(typename S::Vector x, typename S::Vector low = S::zero()) {
  using C = ExpConstants<typename S::Scalar>;
  const ReducedExp<S> e(S::min_or_nan(S::max_or_nan(x, S::broadcast(C::kLeast)), S::broadcast(C::kMost)),
                        low);
  const typename S::Vector one = S::broadcast(1), sum = S::add(one, e.r);
  const typename S::Vector rounded_off = S::sub(e.r, S::sub(sum, one));
  return S::times_power_of_2(S::add(sum, S::add(rounded_off, e.rest)), e.n);
}

// e^x - 1, also where x is near 0. Half of it is computed, since 2^n alone would be infinite near the end.
template <class S>
typename S::Vector expm1(typename S::Vector x) {
  using C = ExpConstants<typename S::Scalar>;
  const ReducedExp<S> e(
      S::min_or_nan(S::max_or_nan(x, S::broadcast(C::kLeastExpm1)), S::broadcast(C::kMost)));
  const typename S::Vector half = S::times_power_of_2(S::broadcast(0.5), e.n);
  return S::mul(S::fma(half, S::add(e.r, e.rest), S::sub(half, S::broadcast(0.5))), S::broadcast(2));
}

}  // namespace lenet_ext::cpu::math
