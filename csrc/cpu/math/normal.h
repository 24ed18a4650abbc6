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
    const V e = exp<S>(S::mul(S::mul(near, near), minus_half), S::mul(rest, minus_half));
    constexpr T kInverseRootOf2Pi = 0.39894228040143268;
    density = S::mul(e, S::broadcast(kInverseRootOf2Pi));
    const V below = tail(a, e);
    const V far = S::select(S::not_positive(x), below, S::sub(S::broadcast(1), below));
    cumulative =
        sizeof(T) == sizeof(float) ? S::select(S::less_equal(a, S::broadcast(kNear)), middle(x), far) : far;
  }

 private:
  static constexpr float kNear = 0.9F;

  // 1/2 + x p(x^2), for float.
  static V middle(V x) {
    constexpr float kP[] = {0.398942274F, -0.0664900182F, 0.00997000509F, -0.00117503373F, 9.77745315e-5F};
    return S::fma(x, polynomial<S>(S::mul(x, x), kP), S::broadcast(0.5));
  }

  // The cumulative distribution at -a; e: e^(-a^2 / 2).
  static V tail(V a, V e) {
    if constexpr (sizeof(T) == sizeof(float)) {
      // tail / e = t g(u), where t = 1 / (a + 3/2), and u goes from -1 to 1 where a is from kMost to kNear.
      constexpr float kG[] = {0.558436219F,   0.117690626F,    -0.00944814543F,  -0.00586795715F,
                              0.00142744994F, 0.000232307611F, -0.000203224884F, 3.29652122e-5F,
                              1.56698942e-5F, -7.5775375e-6F};
      const V t = S::div(S::broadcast(1), S::add(a, S::broadcast(1.5)));
      const V u = S::fma(t, S::broadcast(5.64705882F), S::broadcast(-1.35294118F));
      return S::mul(e, S::mul(t, polynomial<S>(u, kG)));
    } else {
      T elements[S::width];
      S::store(elements, a);
      for (T& element : elements) element = std::erfc(element * 0.70710678118654752) / 2;
      return S::load(elements);
    }
  }
};

}  // namespace lenet_ext::cpu::math
