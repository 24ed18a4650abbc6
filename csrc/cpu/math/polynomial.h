// What the functions of this folder share. They are templates over a set S of cpu/simd: no library of
// mathematical functions is called for float, so that a result depends on the instruction set alone, and
// whether that has a fused multiply-add.
//
// Errors are in units in the last place of the exact result; tests/ops/test_vector_math.py holds them.
#pragma once

#include <cstddef>

namespace lenet_ext::cpu::math {

// c[0] + c[1] x + c[2] x^2 ...
template <class S, class T, size_t kCount>
typename S::Vector polynomial(typename S::Vector x, const T (&c)[kCount]) {
  typename S::Vector sum = S::broadcast(c[kCount - 1]);
#pragma GCC unroll 16
  for (size_t i = 1; i < kCount; ++i) sum = S::fma(sum, x, S::broadcast(c[kCount - 1 - i]));
  return sum;
}

}  // namespace lenet_ext::cpu::math
