// ln(1 + x) for x from 0 to 1. With s = x / (2 + x) it is 2 atanh(s) = 2 s + s z L(z), z = s^2, written so that
// x itself is the largest term.
#pragma once

#include "cpu/math/polynomial.h"

namespace lenet_ext::cpu::math {

template <class T>
struct LogConstants;

template <>
struct LogConstants<float> {
  static constexpr float kL[] = {0.666666667F, 0.400000108F, 0.285703052F,
                                 0.222647252F, 0.174645398F, 0.207882693F};
};
template <>
struct LogConstants<double> {
  static constexpr double kL[] = {0.66666666666666667,  0.39999999999999522, 0.28571428571600264,
                                  0.22222222198216113,  0.18181819899267959, 0.15384543917753165,
                                  0.1333517966151571,   0.11734265179376593, 0.10845291032779813,
                                  0.074916394606732656, 0.15631534707431224};
};

template <class S>
typename S::Vector log1p_of_0_to_1(typename S::Vector x) {
  using V = typename S::Vector;
  const V s = S::div(x, S::add(S::broadcast(2), x)), z = S::mul(s, s);
  const V half_square = S::mul(S::mul(x, x), S::broadcast(0.5));
  const V rest = S::fma(z, polynomial<S>(z, LogConstants<typename S::Scalar>::kL), half_square);
  return S::sub(x, S::sub(half_square, S::mul(s, rest)));
}

}  // namespace lenet_ext::cpu::math
