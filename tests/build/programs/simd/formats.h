// The 16-bit formats by the arithmetic of IEEE 754, as a reference for loads and stores of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "dtype.h"

namespace lenet_ext::simd {

template <int kExponentBits, int kFractionBits>
struct BinaryFormat {
  static constexpr int kLeastExponent = 2 - (1 << (kExponentBits - 1));  // of a normal number
  static constexpr uint16_t kSign = 0x8000;
  static constexpr uint16_t kInfinity = ((1 << kExponentBits) - 1) << kFractionBits;
  static constexpr uint16_t kQuiet = 1 << (kFractionBits - 1);

  static bool is_nan(uint16_t bits) { return (bits & ~kSign) > kInfinity; }

  // Of what is no NaN; infinity is the power of two that follows the largest number.
  static double magnitude(uint16_t bits) {
    const int exponent = (bits & kInfinity) >> kFractionBits, fraction = bits & ((1 << kFractionBits) - 1);
    return exponent == 0
               ? std::ldexp(fraction, kLeastExponent - kFractionBits)
               : std::ldexp(fraction + (1 << kFractionBits), kLeastExponent + exponent - 1 - kFractionBits);
  }

  static float decode(uint16_t bits) {
    if (is_nan(bits)) return std::numeric_limits<float>::quiet_NaN();
    const bool infinite = (bits & ~kSign) == kInfinity;
    const double size = infinite ? std::numeric_limits<double>::infinity() : magnitude(bits);
    return static_cast<float>(bits & kSign ? -size : size);
  }

  // Of what is no NaN, rounded to nearest, ties to even.
  static uint16_t encode(float value) {
    const uint16_t sign = std::signbit(value) ? kSign : 0;
    if (std::isinf(value)) return sign | kInfinity;
    const double size = std::fabs(static_cast<double>(value));
    const int exponent = size == 0 ? kLeastExponent : std::max(std::ilogb(size), kLeastExponent);
    // In units of the last place; a normal number has its leading 1 among them, which adds 1 to the exponent.
    const auto units = static_cast<int>(std::nearbyint(std::ldexp(size, kFractionBits - exponent)));
    return sign | std::min<int>(((exponent - kLeastExponent) << kFractionBits) + units, kInfinity);
  }

  // Every number of the format, what lies half-way to the next, and the neighbours of both in float32.
  static std::vector<float> values_around() {
    constexpr float kMost = std::numeric_limits<float>::infinity();
    std::vector<float> values;
    for (int bits = 0; bits < kInfinity; ++bits) {
      const double number = magnitude(bits), next = magnitude(bits + 1);
      for (const auto value : {static_cast<float>(number), static_cast<float>((number + next) / 2)}) {
        for (const float one : {std::nextafter(value, -kMost), value, std::nextafter(value, kMost)}) {
          values.insert(values.end(), {one, -one});
        }
      }
    }
    values.insert(values.end(), {kMost, -kMost});
    return values;
  }
};

template <class Stored>
struct FormatOf;
template <>
struct FormatOf<BFloat16> : BinaryFormat<8, 7> {};
template <>
struct FormatOf<Float16> : BinaryFormat<5, 10> {};

}  // namespace lenet_ext::simd
