// Storage types of tensors, and the type that each is computed in. What exists once per dtype is made from
// the one list of them, StoredTypes.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace lenet_ext {

// Upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

// IEEE 754 binary16.
struct Float16 {
  uint16_t bits;
};

template <class... Types>
struct TypeList {
  static constexpr int kCount = sizeof...(Types);
};

enum class DType : int { kFloat32, kFloat64, kBFloat16, kFloat16 };
// In the order of DType.
using StoredTypes = TypeList<float, double, BFloat16, Float16>;

// One value for each dtype.
template <class Value>
struct ByDType {
  Value values[StoredTypes::kCount];

  constexpr const Value& operator[](DType dtype) const { return values[static_cast<int>(dtype)]; }
};

// The results of make.template operator()<Stored>().
template <class Make>
constexpr auto by_dtype(const Make& make) {
  return []<class First, class... Others>(const Make& make, TypeList<First, Others...>) {
    using Value = decltype(make.template operator()<First>());
    return ByDType<Value>{{make.template operator()<First>(), make.template operator()<Others>()...}};
  }(make, StoredTypes{});
}

template <class Stored, class... Types>
constexpr DType dtype_in(TypeList<Types...>) {
  int i = 0;
  bool found = false;
  ((found = found || std::is_same_v<Types, Stored>, i += !found), ...);
  return static_cast<DType>(i);
}
template <class Stored>
inline constexpr DType kDTypeOf = dtype_in<Stored>(StoredTypes{});

// The compiler's own binary16, for conversions only. On ARM, GCC knows _Float16 in C++ only since version 13.
#if defined(__aarch64__)
using NativeFloat16 = __fp16;
#else
using NativeFloat16 = _Float16;
#endif

template <class T>
using ComputeType = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline float to_compute(float value) {
  return value;
}
inline double to_compute(double value) {
  return value;
}
inline float to_compute(BFloat16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}
inline float to_compute(Float16 value) {
  return static_cast<float>(std::bit_cast<NativeFloat16>(value.bits));
}

// Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
inline void from_compute(float value, float& out) {
  out = value;
}
inline void from_compute(double value, double& out) {
  out = value;
}
inline void from_compute(float value, BFloat16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = is_nan ? static_cast<uint16_t>((bits >> 16) | 0x40u)
                    : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void from_compute(float value, Float16& out) {
  out.bits = std::bit_cast<uint16_t>(static_cast<NativeFloat16>(value));
}

}  // namespace lenet_ext
