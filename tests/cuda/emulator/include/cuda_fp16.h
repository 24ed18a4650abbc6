// Stands for CUDA's header of this name: conversions of binary16, here by the compiler.
#pragma once

#include "dtype.h"

struct __half {
  lenet_ext::Float16 value;
};

inline __half __ushort_as_half(uint16_t bits) {
  return {{bits}};
}
inline uint16_t __half_as_ushort(__half half) {
  return half.value.bits;
}
inline float __half2float(__half half) {
  return lenet_ext::to_compute(half.value);
}
inline __half __float2half_rn(float value) {
  __half half;
  lenet_ext::from_compute(value, half.value);
  return half;
}
