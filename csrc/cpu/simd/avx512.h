// AVX-512 (F, BW, DQ, VL) wrappers. Every file of this folder offers the same names, described in scalar.h.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "dtype.h"

namespace lenet_ext::simd {

struct Avx512Words {
  using Vector = __m512i;
  static constexpr int width = 8;

  static Vector broadcast(uint32_t value) { return _mm512_set1_epi64(value); }
  static Vector load(const uint32_t* p) {
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)p));
  }
  static void store(uint32_t* p, Vector v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi64_epi32(v)); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_epu32(a, b); }
  static Vector high(Vector v) { return _mm512_srli_epi64(v, 32); }
  static Vector exclusive_or(Vector a, Vector b) { return _mm512_xor_si512(a, b); }
};

template <class T>
struct Avx512;

template <>
struct Avx512<float> {
  using Scalar = float;
  using Vector = __m512;
  using Mask = __mmask16;
  using Words = Avx512Words;
  static constexpr int width = 16;
  static constexpr int registers = 32;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector broadcast(float value) { return _mm512_set1_ps(value); }

  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static Vector load(const BFloat16* p) { return widen_bfloat16(_mm256_loadu_si256((const __m256i*)p)); }
  static Vector load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static Vector load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static Vector load_partial(const BFloat16* p, int n) {
    return widen_bfloat16(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static Vector load_partial(const Float16* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }

  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static void store(BFloat16* p, Vector v) { _mm256_storeu_si256((__m256i*)p, narrow_bfloat16(v)); }
  static void store(Float16* p, Vector v) { _mm256_storeu_si256((__m256i*)p, narrow_float16(v)); }
  static void store_partial(float* p, Vector v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static void store_partial(BFloat16* p, Vector v, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow_bfloat16(v));
  }
  static void store_partial(Float16* p, Vector v, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow_float16(v));
  }

  static Mask mask_of(uint32_t bits) { return static_cast<Mask>(bits); }
  static Vector load_masked(const float* p, Mask mask) { return _mm512_maskz_loadu_ps(mask, p); }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    static_assert(-width < n && n < width);
    const __m512i bits = _mm512_castps_si512(v), none = _mm512_setzero_si512();
    if constexpr (n < 0) {
      return _mm512_castsi512_ps(_mm512_maskz_alignr_epi32(mask, bits, none, width + n));
    } else {
      return _mm512_castsi512_ps(_mm512_maskz_alignr_epi32(mask, none, bits, n));
    }
  }

  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector abs(Vector v) { return _mm512_abs_ps(v); }
  static Vector sqrt(Vector v) { return _mm512_sqrt_ps(v); }
  static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static float reduce_add(Vector v) { return _mm512_reduce_add_ps(v); }

  static Vector max_or_nan(Vector v, Vector bound) { return _mm512_max_ps(bound, v); }
  static Vector max_of(Vector a, Vector b) {
    return _mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
  }
  static Vector min_or_nan(Vector v, Vector bound) { return _mm512_min_ps(bound, v); }
  static Mask positive(Vector v) { return _mm512_cmp_ps_mask(v, zero(), _CMP_GT_OQ); }
  static Mask not_positive(Vector v) { return _mm512_cmp_ps_mask(v, zero(), _CMP_LE_OQ); }
  static Mask greater_or_nan(Vector a, Vector b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) | _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  }
  static Mask equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Mask less_equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static Vector select(Mask mask, Vector yes, Vector no) { return _mm512_mask_blend_ps(mask, no, yes); }

  static Vector copy_sign(Vector v, Vector sign) {
    const Vector bit = _mm512_set1_ps(-0.0F);
    return _mm512_or_ps(_mm512_andnot_ps(bit, v), _mm512_and_ps(bit, sign));
  }
  static Vector round(Vector v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector times_power_of_2(Vector v, Vector n) { return _mm512_scalef_ps(v, n); }

  static Vector even(Vector a, Vector b) {
    const __m512i index = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(a, index, b);
  }
  static Vector odd(Vector a, Vector b) {
    const __m512i index = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_ps(a, index, b);
  }
  static Vector interleave_low(Vector a, Vector b) {
    const __m512i index = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutex2var_ps(a, index, b);
  }
  static Vector interleave_high(Vector a, Vector b) {
    const __m512i index = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    return _mm512_permutex2var_ps(a, index, b);
  }

  // Lane i is v[index[i]].
  static Vector permute(Vector v, const int32_t* index) {
    return _mm512_permutexvar_ps(_mm512_loadu_epi32(index), v);
  }

  // a[0], b[0], c[0], a[1] ...: 3 * width elements.
  static void interleave3(Vector a, Vector b, Vector c, float* p) {
    // Element j of the result is element j / 3 of one of the three; b's are numbered from 16 on.
    const auto place = [&](auto part) {
      alignas(64) int from_a_or_b[16], then_c[16];
      for (int j = 0; j < 16; ++j) {
        const int place = 16 * part + j, element = place / 3;
        from_a_or_b[j] = place % 3 == 1 ? 16 + element : element;
        then_c[j] = place % 3 == 2 ? 16 + element : j;
      }
      const Vector ab = _mm512_permutex2var_ps(a, _mm512_load_epi32(from_a_or_b), b);
      store(p + 16 * part, _mm512_permutex2var_ps(ab, _mm512_load_epi32(then_c), c));
    };
    place(std::integral_constant<int, 0>{});
    place(std::integral_constant<int, 1>{});
    place(std::integral_constant<int, 2>{});
  }

  // The elements of v that are not zero, in order, to `values`, and base[i] + table[bytes[i]] of each, at
  // least 0 and at most `last`, to `offsets`; returns how many. n elements are read, whole vectors written.
  // bytes are taken modulo 16.
  static int compress_nonzero(const float* v, const int32_t* base, const uint8_t* bytes, int n,
                              const int32_t* table, int32_t last, float* values, int32_t* offsets) {
    const Vector value = load_partial(v, n);
    const __m512i entry = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), bytes));
    const __m512i sum = _mm512_add_epi32(_mm512_maskz_loadu_epi32(first(n), base),
                                         _mm512_permutexvar_epi32(entry, _mm512_loadu_epi32(table)));
    const __m512i offset =
        _mm512_min_epi32(_mm512_max_epi32(sum, _mm512_setzero_si512()), _mm512_set1_epi32(last));
    const __mmask16 kept = _mm512_cmp_ps_mask(value, zero(), _CMP_NEQ_UQ);
    store(values, _mm512_maskz_compress_ps(kept, value));
    _mm512_storeu_epi32(offsets, _mm512_maskz_compress_epi32(kept, offset));
    return __builtin_popcount(kept);
  }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, first(n), _mm512_cvttps_epi32(v));
  }
  static Vector load_bytes(const uint8_t* p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
  }

  static void transpose(Vector (&rows)[16]) {
    Vector t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      for (int j = 0; j < 2; ++j) {
        const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
        rows[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        rows[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    }
    // rows[4 g + c] now holds column c (mod 4) of the rows 4 g to 4 g + 3 in its four 128-bit lanes.
    for (int c = 0; c < 4; ++c) {
      const Vector low01 = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88);
      const Vector low23 = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88);
      const Vector high01 = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);
      const Vector high23 = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);
      t[c] = _mm512_shuffle_f32x4(low01, low23, 0x88);
      t[8 + c] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
      t[4 + c] = _mm512_shuffle_f32x4(high01, high23, 0x88);
      t[12 + c] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
    }
    for (int i = 0; i < 16; ++i) rows[i] = t[i];
  }

 private:
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static Vector widen_bfloat16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m256i narrow_bfloat16(Vector v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i last_bit = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(last_bit, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
  }
  static __m256i narrow_float16(Vector v) {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

template <>
struct Avx512<double> {
  using Scalar = double;
  using Vector = __m512d;
  using Mask = __mmask8;
  using Words = Avx512Words;
  static constexpr int width = 8;
  static constexpr int registers = 32;

  static Vector zero() { return _mm512_setzero_pd(); }
  static Vector broadcast(double value) { return _mm512_set1_pd(value); }
  static Vector load(const double* p) { return _mm512_loadu_pd(p); }
  static Vector load_partial(const double* p, int n) { return _mm512_maskz_loadu_pd(first(n), p); }
  static void store(double* p, Vector v) { _mm512_storeu_pd(p, v); }
  static void store_partial(double* p, Vector v, int n) { _mm512_mask_storeu_pd(p, first(n), v); }

  static Mask mask_of(uint32_t bits) { return static_cast<Mask>(bits); }
  static Vector load_masked(const double* p, Mask mask) { return _mm512_maskz_loadu_pd(mask, p); }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    static_assert(-width < n && n < width);
    const __m512i bits = _mm512_castpd_si512(v), none = _mm512_setzero_si512();
    if constexpr (n < 0) {
      return _mm512_castsi512_pd(_mm512_maskz_alignr_epi64(mask, bits, none, width + n));
    } else {
      return _mm512_castsi512_pd(_mm512_maskz_alignr_epi64(mask, none, bits, n));
    }
  }

  static Vector add(Vector a, Vector b) { return _mm512_add_pd(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_pd(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_pd(a, b); }
  static Vector div(Vector a, Vector b) { return _mm512_div_pd(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
  static Vector abs(Vector v) { return _mm512_abs_pd(v); }
  static Vector sqrt(Vector v) { return _mm512_sqrt_pd(v); }
  static Vector min(Vector a, Vector b) { return _mm512_min_pd(a, b); }
  static double reduce_add(Vector v) { return _mm512_reduce_add_pd(v); }

  static Vector max_or_nan(Vector v, Vector bound) { return _mm512_max_pd(bound, v); }
  static Vector max_of(Vector a, Vector b) {
    return _mm512_mask_max_pd(a, _mm512_cmp_pd_mask(a, a, _CMP_ORD_Q), a, b);
  }
  static Vector min_or_nan(Vector v, Vector bound) { return _mm512_min_pd(bound, v); }
  static Mask positive(Vector v) { return _mm512_cmp_pd_mask(v, zero(), _CMP_GT_OQ); }
  static Mask not_positive(Vector v) { return _mm512_cmp_pd_mask(v, zero(), _CMP_LE_OQ); }
  static Mask greater_or_nan(Vector a, Vector b) {
    return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ) | _mm512_cmp_pd_mask(a, a, _CMP_UNORD_Q);
  }
  static Mask equal(Vector a, Vector b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  static Mask less_equal(Vector a, Vector b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
  static Vector select(Mask mask, Vector yes, Vector no) { return _mm512_mask_blend_pd(mask, no, yes); }

  static Vector copy_sign(Vector v, Vector sign) {
    const Vector bit = _mm512_set1_pd(-0.0);
    return _mm512_or_pd(_mm512_andnot_pd(bit, v), _mm512_and_pd(bit, sign));
  }
  static Vector round(Vector v) {
    return _mm512_roundscale_pd(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector times_power_of_2(Vector v, Vector n) { return _mm512_scalef_pd(v, n); }

  static Vector even(Vector a, Vector b) {
    return _mm512_permutex2var_pd(a, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), b);
  }
  static Vector odd(Vector a, Vector b) {
    return _mm512_permutex2var_pd(a, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1), b);
  }
  static Vector interleave_low(Vector a, Vector b) {
    return _mm512_permutex2var_pd(a, _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), b);
  }
  static Vector interleave_high(Vector a, Vector b) {
    return _mm512_permutex2var_pd(a, _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4), b);
  }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    _mm512_mask_cvtepi64_storeu_epi8(p, first(n), _mm512_cvttpd_epi64(v));
  }
  static Vector load_bytes(const uint8_t* p, int n) {
    return _mm512_cvtepi64_pd(_mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8(first(n), p)));
  }

  static void transpose(Vector (&rows)[8]) {
    Vector t[8];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm512_unpacklo_pd(rows[i], rows[i + 1]);
      t[i + 1] = _mm512_unpackhi_pd(rows[i], rows[i + 1]);
    }
    // t[2 g + c] holds column c (mod 2) of the rows 2 g and 2 g + 1 in its four 128-bit lanes.
    for (int c = 0; c < 2; ++c) {
      const Vector low01 = _mm512_shuffle_f64x2(t[c], t[2 + c], 0x88);
      const Vector low23 = _mm512_shuffle_f64x2(t[4 + c], t[6 + c], 0x88);
      const Vector high01 = _mm512_shuffle_f64x2(t[c], t[2 + c], 0xdd);
      const Vector high23 = _mm512_shuffle_f64x2(t[4 + c], t[6 + c], 0xdd);
      rows[c] = _mm512_shuffle_f64x2(low01, low23, 0x88);
      rows[4 + c] = _mm512_shuffle_f64x2(low01, low23, 0xdd);
      rows[2 + c] = _mm512_shuffle_f64x2(high01, high23, 0x88);
      rows[6 + c] = _mm512_shuffle_f64x2(high01, high23, 0xdd);
    }
  }

 private:
  static __mmask8 first(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
};

}  // namespace lenet_ext::simd
