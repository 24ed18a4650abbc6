// Stored numbers to the type they are computed in and back, on the device; vectors of them.
#pragma once

#include <cuda_fp16.h>

#include "dtype.h"

namespace lenet_ext::cuda {

__device__ inline float widen(float value) {
  return value;
}
__device__ inline double widen(double value) {
  return value;
}
__device__ inline float widen(BFloat16 value) {
  return __uint_as_float(uint32_t{value.bits} << 16);
}
__device__ inline float widen(Float16 value) {
  return __half2float(__ushort_as_half(value.bits));
}

// Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
template <class Stored>
__device__ Stored narrow(ComputeType<Stored> value) {
  return value;
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>((value != value ? bits | 0x400000u : rounded) >> 16)};
}
template <>
__device__ inline Float16 narrow<Float16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

// A number of the type that tensors are stored in. Compute is double for float64 alone.
template <class Compute>
__device__ Compute load_stored(const void* data, DType dtype, int64_t i) {
  if constexpr (std::is_same_v<Compute, double>) {
    return static_cast<const double*>(data)[i];
  } else {
    if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
    if (dtype == DType::kBFloat16) return widen(static_cast<const BFloat16*>(data)[i]);
    return widen(static_cast<const Float16*>(data)[i]);
  }
}

template <class Compute>
__device__ void store_stored(void* data, DType dtype, int64_t i, Compute value) {
  if constexpr (std::is_same_v<Compute, double>) {
    static_cast<double*>(data)[i] = value;
  } else {
    if (dtype == DType::kFloat32) {
      static_cast<float*>(data)[i] = value;
    } else if (dtype == DType::kBFloat16) {
      static_cast<BFloat16*>(data)[i] = narrow<BFloat16>(value);
    } else {
      static_cast<Float16*>(data)[i] = narrow<Float16>(value);
    }
  }
}

// kSize values side by side, moved by one instruction of up to 16 bytes.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Vector {
  T values[kSize];
};

}  // namespace lenet_ext::cuda
