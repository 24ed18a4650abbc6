// Winograd's minimal filtering along one axis (Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2016; the matrices by Cook and Toom's construction): `outputs` neighbouring results of a filter
// of `taps` taps from as many products as there are points,
//
//   y = A^T [(G g) * (B^T d)]      d: the inputs, one per point; g: the taps; y: the results
//
//   taps  points                          results   products, and without the transformation
//   2     0, 1, -1, inf                   3         4   6
//   3     0, 1, -1, inf                   2         4   6
//   3     0, 1, -1, -1/2, 2, inf          4         6   12
//   5     0, 1, -1, -1/2, 2, inf          2         6   10
//   5     0, 1, -1, 2, -2, 1/2, -1/2, inf 4         8   20
//
// For points in pairs a, -a, whose polynomials differ in the sign of the odd terms only, the even and the odd terms
// are summed once for both. Six points are not all in pairs: with -1/2 and 2 the largest rounding errors are three
// quarters of those with 2 and -2, and along both axes half of them, at the price of four more operations (Barabasz,
// Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
// Networks", 2020, look for such points).
#pragma once

#include <algorithm>

namespace lenet_ext::cpu {

template <class S, int kTapCount, int kPointCount>
struct Winograd {
  static constexpr bool kDirect = false;
  static constexpr int kTaps = kTapCount, kPoints = kPointCount;
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr int kProducts = kPoints;
  static constexpr int kOutputs = kPoints + 1 - kTaps;
  static_assert((kTaps == 2 && kPoints == 4) || (kTaps == 3 && (kPoints == 4 || kPoints == 6)) ||
                (kTaps == 5 && (kPoints == 6 || kPoints == 8)));

  // v = B^T d
  static void transform_input(const V (&d)[kPoints], V (&v)[kPoints]) {
    if constexpr (kPoints == 4) {
      v[0] = S::sub(d[0], d[2]);
      pair(d[2], d[1], v[1], v[2]);
      v[3] = S::sub(d[3], d[1]);
    } else if constexpr (kPoints == 6) {
      // All but the points -1/2 and 2 have x^2 - 3/2 x - 1 = (x + 1/2) (x - 2) as a factor, those two x^2 - 1.
      V others[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) others[i] = S::sub(plus(d[i + 2], -1.5, d[i + 1]), d[i]);
      v[0] = S::sub(others[2], others[0]);
      v[1] = S::add(others[1], others[2]);
      v[2] = S::sub(others[1], others[2]);
      v[5] = S::sub(others[3], others[1]);
      const V even = S::sub(d[4], d[2]), odd = S::sub(d[3], d[1]);
      v[3] = plus(even, -2, odd);
      v[4] = plus(even, 0.5, odd);
    } else {
      v[0] = plus(S::sub(d[6], d[0]), 5.25, S::sub(d[2], d[4]));
      pair(plus(S::add(d[2], d[6]), -4.25, d[4]), plus(S::add(d[1], d[5]), -4.25, d[3]), v[1], v[2]);
      pair(plus(plus(d[6], -1.25, d[4]), 0.25, d[2]), plus(plus(S::add(d[5], d[5]), -2.5, d[3]), 0.5, d[1]),
           v[3], v[4]);
      pair(plus(plus(d[6], -5, d[4]), 4, d[2]), plus(plus(S::add(d[1], d[1]), -2.5, d[3]), 0.5, d[5]), v[5],
           v[6]);
      v[7] = plus(S::sub(d[7], d[1]), 5.25, S::sub(d[3], d[5]));
    }
  }

  // u = G g
  static void transform_taps(const V (&g)[kTaps], V (&u)[kPoints]) {
    if constexpr (kPoints == 4) {
      u[0] = g[0];
      taps_at(1, 1.0 / 2, g, u[1], u[2]);
    } else if constexpr (kPoints == 6) {
      u[0] = g[0];
      taps_at(1, -1.0 / 3, g, u[1], u[2]);
      u[3] = taps_at(-0.5, -16.0 / 15, g);
      u[4] = taps_at(2, 1.0 / 15, g);
    } else {
      u[0] = times(-1.0, g[0]);
      taps_at(1, -2.0 / 9, g, u[1], u[2]);
      taps_at(2, 1.0 / 90, g, u[3], u[4]);
      taps_at(0.5, 32.0 / 45, g, u[5], u[6]);
    }
    u[kPoints - 1] = g[kTaps - 1];
  }

  // y = A^T m. The coefficients of m[1] are all 1: a bias added to m[1] is added to every result.
  static void transform_output(const V (&m)[kPoints], V (&y)[kOutputs]) {
    const V even1 = S::add(m[1], m[2]), odd1 = S::sub(m[1], m[2]);
    y[0] = S::add(m[0], even1);
    y[1] = odd1;
    if constexpr (kOutputs == 3) y[2] = even1;
    if constexpr (kPoints == 6) {
      y[0] = S::add(y[0], S::add(m[3], m[4]));
      y[1] = plus(plus(odd1, -0.5, m[3]), 2, m[4]);
      if constexpr (kOutputs == 4) {
        y[2] = plus(plus(even1, 0.25, m[3]), 4, m[4]);
        y[3] = plus(plus(odd1, -0.125, m[3]), 8, m[4]);
      }
    }
    if constexpr (kPoints == 8) {
      const V even2 = S::add(m[3], m[4]), odd2 = S::sub(m[3], m[4]);
      const V even3 = S::add(m[5], m[6]), odd3 = S::sub(m[5], m[6]);
      y[0] = S::add(S::add(y[0], even2), even3);
      y[1] = plus(plus(odd1, 2, odd2), 0.5, odd3);
      y[2] = plus(plus(even1, 4, even2), 0.25, even3);
      y[3] = plus(plus(odd1, 8, odd2), 0.125, odd3);
    }
    y[kOutputs - 1] = S::add(y[kOutputs - 1], m[kPoints - 1]);
  }

 private:
  static V times(double factor, V v) { return S::fma(S::broadcast(T(factor)), v, S::zero()); }
  static V plus(V sum, double factor, V v) { return S::fma(S::broadcast(T(factor)), v, sum); }
  static void pair(V even, V odd, V& at, V& at_minus) {
    at = S::add(even, odd);
    at_minus = S::sub(even, odd);
  }
  // scale * g(point)
  static V taps_at(double point, double scale, const V (&g)[kTaps]) {
    V sum = times(scale, g[0]);
#pragma GCC unroll 4
    for (int i = 1; i < kTaps; ++i) sum = plus(sum, scale *= point, g[i]);
    return sum;
  }
  // scale * g(point) and scale * g(-point)
  static void taps_at(double point, double scale, const V (&g)[kTaps], V& at, V& at_minus) {
    V even = times(scale, g[0]), odd = times(scale * point, g[1]);
    double power = scale * point * point;
#pragma GCC unroll 4
    for (int i = 2; i < kTaps; ++i, power *= point)
      (i % 2 == 0 ? even : odd) = plus(i % 2 == 0 ? even : odd, power, g[i]);
    pair(even, odd, at, at_minus);
  }
};

// The same results straight from the rows that a tile reads, in the layouts of Winograd's method: the "points"
// are the rows as they are, and each output row has a product of its own, over all taps.
template <class S, class W>
struct DirectRows {
  using V = typename S::Vector;
  static constexpr bool kDirect = true;
  static constexpr int kTaps = W::kTaps, kPoints = W::kPoints, kOutputs = W::kOutputs, kProducts = kOutputs;

  static void transform_input(const V (&d)[kPoints], V (&v)[kPoints]) { std::copy_n(d, kPoints, v); }
  static void transform_output(const V (&m)[kProducts], V (&y)[kOutputs]) { std::copy_n(m, kOutputs, y); }
};

}  // namespace lenet_ext::cpu
