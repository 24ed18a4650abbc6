// NEON (aarch64) wrappers. Every file of this folder offers the same names, described in scalar.h.
#pragma once

#include <arm_neon.h>

#include "cpu/simd/few_bytes.h"
#include "dtype.h"

namespace lenet_ext::simd {

struct NeonWords {
  using Vector = uint64x2_t;
  static constexpr int width = 2;

  static Vector broadcast(uint32_t value) { return vdupq_n_u64(value); }
  static Vector load(const uint32_t* p) { return vmovl_u32(vld1_u32(p)); }
  static void store(uint32_t* p, Vector v) { vst1_u32(p, vmovn_u64(v)); }
  static Vector multiply(Vector a, Vector b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
  static Vector high(Vector v) { return vshrq_n_u64(v, 32); }
  static Vector exclusive_or(Vector a, Vector b) { return veorq_u64(a, b); }
};

template <class T>
struct Neon;

template <>
struct Neon<float> {
  using Scalar = float;
  using Vector = float32x4_t;
  using Mask = uint32x4_t;  // all bits of an element, or none
  using Words = NeonWords;
  static constexpr int width = 4;
  static constexpr int registers = 32;

  static Vector zero() { return vdupq_n_f32(0); }
  static Vector broadcast(float value) { return vdupq_n_f32(value); }

  static Vector load(const float* p) { return vld1q_f32(p); }
  static Vector load(const BFloat16* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16)); }
  static Vector load(const Float16* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))); }
  template <class Stored>
  static Vector load_partial(const Stored* p, int n) {
    Stored buffer[width] = {};
    copy_few<sizeof(buffer)>(buffer, p, static_cast<int>(sizeof(Stored)) * n);
    return load(buffer);
  }

  static void store(float* p, Vector v) { vst1q_f32(p, v); }
  static void store(BFloat16* p, Vector v) { vst1_u16(&p->bits, narrow_bfloat16(v)); }
  static void store(Float16* p, Vector v) { vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  template <class Stored>
  static void store_partial(Stored* p, Vector v, int n) {
    Stored buffer[width];
    store(buffer, v);
    copy_few<sizeof(buffer)>(p, buffer, static_cast<int>(sizeof(Stored)) * n);
  }

  static Mask mask_of(uint32_t bits) {
    const uint32_t bit[width] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits), vld1q_u32(bit));
  }
  // The whole vector at once where all of it is wanted, which is the rule.
  static Vector load_masked(const float* p, Mask mask) {
    if (vminvq_u32(mask) != 0) return load(p);
    uint32_t wanted[width];
    vst1q_u32(wanted, mask);
    float buffer[width];
    for (int i = 0; i < width; ++i) buffer[i] = wanted[i] != 0 ? p[i] : 0.0F;
    return load(buffer);
  }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    if constexpr (n <= -width || n >= width) {
      return zero();
    } else {
      const Vector moved =
          n < 0 ? vextq_f32(zero(), v, (width + n) % width) : vextq_f32(v, zero(), n < 0 ? 0 : n);
      return select(mask, n == 0 ? v : moved, zero());
    }
  }

  static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector sub(Vector a, Vector b) { return vsubq_f32(a, b); }
  static Vector mul(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector div(Vector a, Vector b) { return vdivq_f32(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  static Vector abs(Vector v) { return vabsq_f32(v); }
  static Vector sqrt(Vector v) { return vsqrtq_f32(v); }
  static Vector min(Vector a, Vector b) { return vminq_f32(a, b); }
  static float reduce_add(Vector v) { return vaddvq_f32(v); }

  // Not FMAX, which would take a NaN from bound too.
  static Vector max_or_nan(Vector v, Vector bound) { return select(vcltq_f32(v, bound), bound, v); }
  static Vector max_of(Vector a, Vector b) { return vmaxq_f32(a, b); }
  static Vector min_or_nan(Vector v, Vector bound) { return select(vcgtq_f32(v, bound), bound, v); }
  static Mask positive(Vector v) { return vcgtzq_f32(v); }
  static Mask not_positive(Vector v) { return vclezq_f32(v); }
  static Mask greater_or_nan(Vector a, Vector b) { return vornq_u32(vcgtq_f32(a, b), vceqq_f32(a, a)); }
  static Mask equal(Vector a, Vector b) { return vceqq_f32(a, b); }
  static Mask less_equal(Vector a, Vector b) { return vcleq_f32(a, b); }
  static Vector select(Mask mask, Vector yes, Vector no) { return vbslq_f32(mask, yes, no); }

  static Vector copy_sign(Vector v, Vector sign) { return vbslq_f32(vdupq_n_u32(0x80000000), sign, v); }
  static Vector round(Vector v) { return vrndnq_f32(v); }
  static Vector times_power_of_2(Vector v, Vector n) {
    const Vector half = round(vmulq_n_f32(n, 0.5));
    return mul(mul(v, power_of_2(half)), power_of_2(sub(n, half)));
  }

  static Vector even(Vector a, Vector b) { return vuzp1q_f32(a, b); }
  static Vector odd(Vector a, Vector b) { return vuzp2q_f32(a, b); }
  static Vector interleave_low(Vector a, Vector b) { return vzip1q_f32(a, b); }
  static Vector interleave_high(Vector a, Vector b) { return vzip2q_f32(a, b); }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    const uint16x4_t words = vmovn_u32(vcvtq_u32_f32(v));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    copy_few<width>(p, &bytes, n);
  }
  static Vector load_bytes(const uint8_t* p, int n) {
    uint32_t bytes = 0;
    copy_few<width>(&bytes, p, n);
    const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
  }

  static void transpose(Vector (&rows)[4]) {
    Vector t[4];
    for (int i = 0; i < 4; i += 2) {
      t[i] = vtrn1q_f32(rows[i], rows[i + 1]);
      t[i + 1] = vtrn2q_f32(rows[i], rows[i + 1]);
    }
    // t[2 g + c] holds column c (mod 2) of the rows 2 g and 2 g + 1 in its two 64-bit halves.
    for (int c = 0; c < 2; ++c) {
      const float64x2_t a = vreinterpretq_f64_f32(t[c]), b = vreinterpretq_f64_f32(t[2 + c]);
      rows[c] = vreinterpretq_f32_f64(vtrn1q_f64(a, b));
      rows[2 + c] = vreinterpretq_f32_f64(vtrn2q_f64(a, b));
    }
  }

 private:
  // Of a whole number in the range of exponents.
  static Vector power_of_2(Vector n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static uint16x4_t narrow_bfloat16(Vector v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t last_bit = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(last_bit, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
  }
};

template <>
struct Neon<double> {
  using Scalar = double;
  using Vector = float64x2_t;
  using Mask = uint64x2_t;
  using Words = NeonWords;
  static constexpr int width = 2;
  static constexpr int registers = 32;

  static Vector zero() { return vdupq_n_f64(0); }
  static Vector broadcast(double value) { return vdupq_n_f64(value); }
  static Vector load(const double* p) { return vld1q_f64(p); }
  static Vector load_partial(const double* p, int n) {
    double buffer[width] = {};
    copy_few<sizeof(buffer)>(buffer, p, static_cast<int>(sizeof(double)) * n);
    return load(buffer);
  }
  static void store(double* p, Vector v) { vst1q_f64(p, v); }
  static void store_partial(double* p, Vector v, int n) {
    double buffer[width];
    store(buffer, v);
    copy_few<sizeof(buffer)>(p, buffer, static_cast<int>(sizeof(double)) * n);
  }

  static Mask mask_of(uint32_t bits) {
    const uint64_t bit[width] = {1, 2};
    return vtstq_u64(vdupq_n_u64(bits), vld1q_u64(bit));
  }
  static Vector load_masked(const double* p, Mask mask) {
    const double buffer[width] = {vgetq_lane_u64(mask, 0) != 0 ? p[0] : 0.0,
                                  vgetq_lane_u64(mask, 1) != 0 ? p[1] : 0.0};
    return load(buffer);
  }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    if constexpr (n <= -width || n >= width) {
      return zero();
    } else {
      const Vector moved =
          n < 0 ? vextq_f64(zero(), v, (width + n) % width) : vextq_f64(v, zero(), n < 0 ? 0 : n);
      return select(mask, n == 0 ? v : moved, zero());
    }
  }

  static Vector add(Vector a, Vector b) { return vaddq_f64(a, b); }
  static Vector sub(Vector a, Vector b) { return vsubq_f64(a, b); }
  static Vector mul(Vector a, Vector b) { return vmulq_f64(a, b); }
  static Vector div(Vector a, Vector b) { return vdivq_f64(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f64(c, a, b); }
  static Vector abs(Vector v) { return vabsq_f64(v); }
  static Vector sqrt(Vector v) { return vsqrtq_f64(v); }
  static Vector min(Vector a, Vector b) { return vminq_f64(a, b); }
  static double reduce_add(Vector v) { return vaddvq_f64(v); }

  static Vector max_or_nan(Vector v, Vector bound) { return select(vcltq_f64(v, bound), bound, v); }
  static Vector max_of(Vector a, Vector b) { return vmaxq_f64(a, b); }
  static Vector min_or_nan(Vector v, Vector bound) { return select(vcgtq_f64(v, bound), bound, v); }
  static Mask positive(Vector v) { return vcgtzq_f64(v); }
  static Mask not_positive(Vector v) { return vclezq_f64(v); }
  static Mask greater_or_nan(Vector a, Vector b) { return vornq_u64(vcgtq_f64(a, b), vceqq_f64(a, a)); }
  static Mask equal(Vector a, Vector b) { return vceqq_f64(a, b); }
  static Mask less_equal(Vector a, Vector b) { return vcleq_f64(a, b); }
  static Vector select(Mask mask, Vector yes, Vector no) { return vbslq_f64(mask, yes, no); }

  static Vector copy_sign(Vector v, Vector sign) {
    return vbslq_f64(vdupq_n_u64(uint64_t{1} << 63), sign, v);
  }
  static Vector round(Vector v) { return vrndnq_f64(v); }
  static Vector times_power_of_2(Vector v, Vector n) {
    const Vector half = round(vmulq_n_f64(n, 0.5));
    return mul(mul(v, power_of_2(half)), power_of_2(sub(n, half)));
  }

  static Vector even(Vector a, Vector b) { return vuzp1q_f64(a, b); }
  static Vector odd(Vector a, Vector b) { return vuzp2q_f64(a, b); }
  static Vector interleave_low(Vector a, Vector b) { return vzip1q_f64(a, b); }
  static Vector interleave_high(Vector a, Vector b) { return vzip2q_f64(a, b); }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    const uint64x2_t whole = vcvtq_u64_f64(v);
    if (n > 0) p[0] = static_cast<uint8_t>(vgetq_lane_u64(whole, 0));
    if (n > 1) p[1] = static_cast<uint8_t>(vgetq_lane_u64(whole, 1));
  }
  static Vector load_bytes(const uint8_t* p, int n) {
    const double values[width] = {n > 0 ? double(p[0]) : 0.0, n > 1 ? double(p[1]) : 0.0};
    return load(values);
  }

  static void transpose(Vector (&rows)[2]) {
    const Vector first = rows[0], second = rows[1];
    rows[0] = vtrn1q_f64(first, second);
    rows[1] = vtrn2q_f64(first, second);
  }

 private:
  // Of a whole number in the range of exponents.
  static Vector power_of_2(Vector n) {
    return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(vcvtq_s64_f64(n), vdupq_n_s64(1023)), 52));
  }
};

}  // namespace lenet_ext::simd
