// Plain C++: a vector of one element. Also the description of the names that every file of this folder
// offers.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "dtype.h"

namespace lenet_ext::simd {

// Numbers of 32 bits, each in the lower half of a lane of 64, whose upper half may hold anything.
struct Scalar1Words {
  using Vector = uint64_t;
  static constexpr int width = 1;

  static Vector broadcast(uint32_t value) { return value; }
  static Vector load(const uint32_t* p) { return *p; }
  static void store(uint32_t* p, Vector v) { *p = static_cast<uint32_t>(v); }
  static Vector multiply(Vector a, Vector b) { return (a & 0xffffffff) * (b & 0xffffffff); }  // all 64 bits
  static Vector high(Vector v) { return v >> 32; }
  static Vector exclusive_or(Vector a, Vector b) { return a ^ b; }
};

template <class T>
struct Scalar1 {
  using Scalar = T;   // the compute type: float or double
  using Vector = T;   // `width` of them
  using Mask = bool;  // one flag per element
  using Words = Scalar1Words;
  static constexpr int width = 1;
  static constexpr int registers = 16;  // vector registers, the budget of the tiles in tile.h

  static Vector zero() { return T(0); }
  static Vector broadcast(T value) { return value; }

  // Stored is Scalar or, for float, a 16-bit type that is widened. No alignment is asked for.
  // The partial ones touch the first n elements only (0 <= n <= width; the others are read as zero).
  template <class Stored>
  static Vector load(const Stored* p) {
    return to_compute(*p);
  }
  template <class Stored>
  static Vector load_partial(const Stored* p, int n) {
    return n > 0 ? to_compute(*p) : T(0);
  }
  template <class Stored>
  static void store(Stored* p, Vector v) {
    from_compute(v, *p);
  }
  template <class Stored>
  static void store_partial(Stored* p, Vector v, int n) {
    if (n > 0) from_compute(v, *p);
  }

  // The elements whose bit is set, from the lowest on; of those alone memory is touched, others are zero.
  static Mask mask_of(uint32_t bits) { return (bits & 1) != 0; }
  static Vector load_masked(const T* p, Mask mask) { return mask ? *p : T(0); }

  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector sub(Vector a, Vector b) { return a - b; }
  static Vector mul(Vector a, Vector b) { return a * b; }
  static Vector div(Vector a, Vector b) { return a / b; }
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector abs(Vector v) { return std::abs(v); }
  static Vector sqrt(Vector v) { return std::sqrt(v); }
  static Vector min(Vector a, Vector b) { return a < b ? a : b; }  // either, where one is NaN
  static T reduce_add(Vector v) { return v; }                      // the sum of the elements

  static Vector max_or_nan(Vector v, Vector bound) { return v < bound ? bound : v; }   // NaN in v stays
  static Vector max_of(Vector a, Vector b) { return a > b || std::isnan(a) ? a : b; }  // any NaN stays
  static Vector min_or_nan(Vector v, Vector bound) { return v > bound ? bound : v; }   // NaN in v stays
  static Mask positive(Vector v) { return v > T(0); }
  static Mask not_positive(Vector v) { return v <= T(0); }  // false for a NaN
  static Mask greater_or_nan(Vector a, Vector b) { return a > b || std::isnan(a); }
  static Mask equal(Vector a, Vector b) { return a == b; }
  static Mask less_equal(Vector a, Vector b) { return a <= b; }
  static Vector select(Mask mask, Vector yes, Vector no) { return mask ? yes : no; }

  static Vector copy_sign(Vector v, Vector sign) { return std::copysign(v, sign); }  // |v| with sign's sign
  // The nearest whole number, ties to even, where |v| is below a quarter of the numbers of a mantissa: 2^22
  // for float, 2^51 for double. Zeros have any sign.
  static Vector round(Vector v) { return (v + kWhole) - kWhole; }
  // v * 2^n, rounded once where |v| is from 1/2 to 2; n: whole, at most twice the largest exponent.
  static Vector times_power_of_2(Vector v, Vector n) {
    const Vector half = round(n * T(0.5));
    return v * power_of_2(half) * power_of_2(n - half);
  }

  // Of the 2 * width elements a, b: those at even places; those at odd places.
  static Vector even(Vector a, Vector) { return a; }
  static Vector odd(Vector, Vector b) { return b; }
  // a[0], b[0], a[1], b[1] ...: the first width elements; the others.
  static Vector interleave_low(Vector a, Vector) { return a; }
  static Vector interleave_high(Vector, Vector b) { return b; }

  // The first n elements, whole numbers from 0 to 255, as bytes.
  static void store_bytes(uint8_t* p, Vector v, int n) {
    if (n > 0) *p = static_cast<uint8_t>(v);
  }
  static Vector load_bytes(const uint8_t* p, int n) { return n > 0 ? T(*p) : T(0); }

  static void transpose(Vector (&)[1]) {}  // of a width x width matrix

 private:
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static constexpr int kMantissaBits = std::numeric_limits<T>::digits - 1;
  // Added to a small number, it leaves no bits for fractions, and the whole number in the lowest ones.
  static constexpr T kWhole = T(3) * (Bits{1} << (kMantissaBits - 1));

  // Of a whole number in the range of exponents.
  static Vector power_of_2(Vector n) {
    constexpr T kBias = std::numeric_limits<T>::max_exponent - 1;
    return std::bit_cast<T>(std::bit_cast<Bits>(n + (kWhole + kBias)) << kMantissaBits);
  }
};

}  // namespace lenet_ext::simd
