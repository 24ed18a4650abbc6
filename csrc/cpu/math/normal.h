// The normal distribution: its density and its cumulative distribution (1 + erf(x / sqrt(2))) / 2, which
// keeps its last bits in the lower tail.
#pragma once

#include <cmath>

#include "cpu/math/exp.h"

namespace lenet_ext::cpu::math {

template <class T>
struct NormalConstants;

// kGrid: what |x| is rounded to, coarse enough that the square of it is exact. The density is 0 beyond kMost.
template <>
struct NormalConstants<float> {
  static constexpr float kMost = 15, kGrid = 256;
};
template <>
struct NormalConstants<double> {
  static constexpr double kMost = 39, kGrid = 1 << 20;
};

template <class S>
struct Normal {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  V cumulative, density;

  explicit Normal(V x) {
    using C = NormalConstants<T>;
    const V a = S::min_or_nan(S::abs(x), S::broadcast(C::kMost));
    // a^2 = near^2 + (a - near) (a + near): a rounding error of the square would be one of the result, times
    // the square.
    const V near = S::mul(S::round(S::mul(a, S::broadcast(C::kGrid))), S::broadcast(1 / C::kGrid));
    const V rest = S::mul(S::sub(a, near), S::add(a, near)), minus_half = S::broadcast(-0.5);
    const ReducedExp<S> e(S::mul(S::mul(near, near), minus_half), S::mul(rest, minus_half));
    constexpr T kInverseRootOf2Pi = 0.39894228040143268;
    density = times_exp(S::broadcast(kInverseRootOf2Pi), e);
    const V below = tail(a, e);
    const V far = S::select(S::not_positive(x), below, S::sub(S::broadcast(1), below));
    cumulative =
        sizeof(T) == sizeof(float) ? S::select(S::less_equal(a, S::broadcast(kNear)), middle(x), far) : far;
  }

 private:
  static constexpr float kNear = 0.5F;

  // 1/2 + x p(x^2), for float.
  static V middle(V x) {
    constexpr float kP[] = {0.398942277F, -0.0664899464F, 0.00996485636F, -0.00113117909F};
    return S::fma(x, polynomial<S>(S::mul(x, x), kP), S::broadcast(0.5));
  }

  // v e^x, rounded once after the sum within e.
  static V times_exp(V v, const ReducedExp<S>& e) {
    return S::times_power_of_2(S::fma(v, S::add(e.r, e.rest), v), e.n);
  }

  // The cumulative distribution at -a; e: e^(-a^2 / 2).
  static V tail(V a, const ReducedExp<S>& e) {
    if constexpr (sizeof(T) == sizeof(float)) {
      // tail / e = t g(u), where t = 1 / (a + 3/2), and u goes from -1 to 1 where a is from kMost to kNear.
      constexpr float kG[] = {0.585532963F,     0.138781562F,     -0.0199818369F,   -0.00837891921F,
                              0.00361020793F,   -1.73149165e-05F, -0.000477176829F, 0.000190756036F,
                              -2.16215017e-06F, -3.10290234e-05F, 1.05144873e-05F};
      const V one = S::broadcast(1), shift = S::broadcast(1.5), sum = S::add(a, shift), t = S::div(one, sum);
      const V u = S::fma(t, S::broadcast(4.57142878F), S::broadcast(-1.2857132F));
      const V g = polynomial<S>(u, kG);
      // What was rounded off the sum and off t changes t g(u) by 1.25 times its share, near enough.
      const V off_sum = S::sub(a, S::sub(sum, shift)), minus_t = S::sub(S::zero(), t);
      const V off_t = S::mul(t, S::fma(minus_t, off_sum, S::fma(minus_t, sum, one)));
      return times_exp(S::fma(t, g, S::mul(S::mul(off_t, S::broadcast(1.25)), g)), e);
    } else {
      T elements[S::width];
      S::store(elements, a);
      for (T& element : elements) element = std::erfc(element * 0.70710678118654752) / 2;
      return S::load(elements);
    }
  }
};

}  // namespace lenet_ext::cpu::math
