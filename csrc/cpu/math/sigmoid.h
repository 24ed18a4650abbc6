// 1 / (1 + e^-x), and the hyperbolic tangent.
#pragma once

#include "cpu/math/exp.h"

namespace lenet_ext::cpu::math {

// With e = e^-|x| it is e / (1 + e) below 0, which keeps its last bits near 0.
template <class S>
typename S::Vector sigmoid(typename S::Vector x) {
  using V = typename S::Vector;
  const V one = S::broadcast(1), e = exp<S>(S::sub(S::zero(), S::abs(x)));
  const typename S::Mask below = S::not_positive(x);
  const V sum = S::add(one, e), quotient = S::div(S::select(below, e, one), sum);
  // What was rounded off the sum makes the quotient less by its share in the sum.
  const V rounded_off = S::sub(e, S::sub(sum, one)),
          inverse_sum = S::select(below, S::sub(one, quotient), quotient);
  return S::fma(S::mul(quotient, S::sub(S::zero(), rounded_off)), inverse_sum, quotient);
}

template <class T>
struct TanhConstants;

// (tanh(x) / x - 1) / x^2 of x^2.
template <>
struct TanhConstants<float> {
  static constexpr float kP[] = {-0.333333332F, 0.133333128F,   -0.053961545F,
                                 0.0217882625F, -0.0084098593F, 0.00237050555F};
};
template <>
struct TanhConstants<double> {
  static constexpr double kP[] = {-0.33333333333333333,   0.13333333333333206,    -0.053968253968084874,
                                  0.02186948852734803,    -0.0088632352923270277, 0.0035921242434450537,
                                  -0.0014557958293833367, 0.00058976779153492444, -0.00023795093289994857,
                                  9.3321972326798033e-5,  -3.2083733604546543e-5, 6.9325250598031007e-6};
};

// A polynomial near 0, and 1 - 2 / (1 + e^2|x|) elsewhere.
template <class S>
typename S::Vector tanh(typename S::Vector x) {
  using V = typename S::Vector;
  constexpr double kNear = 0.6;  // the quotient is less than the result beyond
  const V a = S::abs(x), square = S::mul(x, x), one = S::broadcast(1);
  const V near = S::fma(S::mul(x, square), polynomial<S>(square, TanhConstants<typename S::Scalar>::kP), x);
  const V quotient = S::div(S::broadcast(2), S::add(one, exp<S>(S::add(a, a))));
  const V far = S::copy_sign(S::sub(one, quotient), x);
  return S::select(S::less_equal(a, S::broadcast(kNear)), near, far);
}

}  // namespace lenet_ext::cpu::math
