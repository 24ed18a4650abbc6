// AVX2 (with FMA and F16C) wrappers. Every file of this folder offers the same names, described in scalar.h.
#pragma once

#include <immintrin.h>

#include "cpu/simd/few_bytes.h"
#include "cpu/simd/places_of_bits.h"
#include "dtype.h"

namespace lenet_ext::simd {

struct Avx2Words {
  using Vector = __m256i;
  static constexpr int width = 4;

  static Vector broadcast(uint32_t value) { return _mm256_set1_epi64x(value); }
  static Vector load(const uint32_t* p) { return _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i*)p)); }
  static void store(uint32_t* p, Vector v) {
    const __m256i low = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(low));
  }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_epu32(a, b); }
  static Vector high(Vector v) { return _mm256_srli_epi64(v, 32); }
  static Vector exclusive_or(Vector a, Vector b) { return _mm256_xor_si256(a, b); }
};

template <class T>
struct Avx2;

template <>
struct Avx2<float> {
  using Scalar = float;
  using Vector = __m256;
  using Mask = __m256;  // all bits of an element, or none
  using Words = Avx2Words;
  static constexpr int width = 8;
  static constexpr int registers = 16;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(float value) { return _mm256_set1_ps(value); }

  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static Vector load(const BFloat16* p) { return widen(_mm_loadu_si128((const __m128i*)p), BFloat16{}); }
  static Vector load(const Float16* p) { return widen(_mm_loadu_si128((const __m128i*)p), Float16{}); }
  static Vector load_partial(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  template <class Half>
  static Vector load_partial(const Half* p, int n) {
    Half buffer[width] = {};
    copy_few<sizeof(buffer)>(buffer, p, static_cast<int>(sizeof(Half)) * n);
    return load(buffer);
  }

  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static void store(BFloat16* p, Vector v) { _mm_storeu_si128((__m128i*)p, narrow_bfloat16(v)); }
  static void store(Float16* p, Vector v) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // By halves: on a Zen 3 a masked store takes some 15 cycles, these one to three.
  [[gnu::always_inline]] static void store_partial(float* p, Vector v, int n) {
    if (n == width) return store(p, v);
    __m128 part = _mm256_castps256_ps128(v);
    if ((n & 4) != 0) {
      _mm_storeu_ps(p, part);
      part = _mm256_extractf128_ps(v, 1), p += 4;
    }
    if ((n & 2) != 0) {
      _mm_storel_pi((__m64*)p, part);
      part = _mm_movehl_ps(part, part), p += 2;
    }
    if ((n & 1) != 0) _mm_store_ss(p, part);
  }
  template <class Half>
  static void store_partial(Half* p, Vector v, int n) {
    Half buffer[width];
    store(buffer, v);
    copy_few<sizeof(buffer)>(p, buffer, static_cast<int>(sizeof(Half)) * n);
  }

  static Mask mask_of(uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit));
  }
  static Vector load_masked(const float* p, Mask mask) {
    return _mm256_maskload_ps(p, _mm256_castps_si256(mask));
  }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    const __m256i from = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(n));
    const __m256i inside = _mm256_cmpeq_epi32(_mm256_and_si256(from, _mm256_set1_epi32(7)), from);
    return _mm256_and_ps(_mm256_permutevar8x32_ps(v, from), _mm256_and_ps(mask, _mm256_castsi256_ps(inside)));
  }

  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector abs(Vector v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), v); }
  static Vector sqrt(Vector v) { return _mm256_sqrt_ps(v); }
  static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static float reduce_add(Vector v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Vector max_or_nan(Vector v, Vector bound) { return _mm256_max_ps(bound, v); }
  static Vector max_of(Vector a, Vector b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static Vector min_or_nan(Vector v, Vector bound) { return _mm256_min_ps(bound, v); }
  static Mask positive(Vector v) { return _mm256_cmp_ps(v, zero(), _CMP_GT_OQ); }
  static Mask not_positive(Vector v) { return _mm256_cmp_ps(v, zero(), _CMP_LE_OQ); }
  static Mask greater_or_nan(Vector a, Vector b) {
    return _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static Mask equal(Vector a, Vector b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static Mask less_equal(Vector a, Vector b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static Vector select(Mask mask, Vector yes, Vector no) { return _mm256_blendv_ps(no, yes, mask); }

  static Vector copy_sign(Vector v, Vector sign) {
    const Vector bit = _mm256_set1_ps(-0.0F);
    return _mm256_or_ps(_mm256_andnot_ps(bit, v), _mm256_and_ps(bit, sign));
  }
  static Vector round(Vector v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vector times_power_of_2(Vector v, Vector n) {
    const Vector half = round(mul(n, broadcast(0.5)));
    return mul(mul(v, power_of_2(half)), power_of_2(sub(n, half)));
  }

  static Vector even(Vector a, Vector b) { return order_pairs(_mm256_shuffle_ps(a, b, 0x88)); }
  static Vector odd(Vector a, Vector b) { return order_pairs(_mm256_shuffle_ps(a, b, 0xdd)); }
  static Vector interleave_low(Vector a, Vector b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
  }
  static Vector interleave_high(Vector a, Vector b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
  }

  // Lane i is v[index[i]].
  static Vector permute(Vector v, const int32_t* index) {
    return _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
  }

  // As in avx512.h.
  static int compress_nonzero(const float* v, const int32_t* base, const uint8_t* bytes, int n,
                              const int32_t* table, int32_t last, float* values, int32_t* offsets) {
    const Vector value = load_partial(v, n);
    const __m256i entry = load_few(bytes, n);
    const auto entries_from = [&](int i) {
      const Vector half = _mm256_loadu_ps(reinterpret_cast<const float*>(table + i));
      return _mm256_permutevar8x32_ps(half, entry);  // which looks at the last three bits
    };
    const Vector is_upper = _mm256_castsi256_ps(_mm256_slli_epi32(entry, 28));
    const Vector found = _mm256_blendv_ps(entries_from(0), entries_from(8), is_upper);
    const __m256i sum = _mm256_add_epi32(_mm256_maskload_epi32(base, first(n)), _mm256_castps_si256(found));
    const __m256i offset =
        _mm256_min_epi32(_mm256_max_epi32(sum, _mm256_setzero_si256()), _mm256_set1_epi32(last));
    const int kept = _mm256_movemask_ps(_mm256_cmp_ps(value, zero(), _CMP_NEQ_UQ));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kPlacesOfBits[kept])));
    store(values, _mm256_permutevar8x32_ps(value, order));
    _mm256_storeu_si256((__m256i*)offsets, _mm256_permutevar8x32_epi32(offset, order));
    return __builtin_popcount(kept);
  }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    const __m256i whole = _mm256_cvttps_epi32(v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i bytes = _mm_packus_epi16(words, words);
    copy_few<width>(p, &bytes, n);
  }
  static Vector load_bytes(const uint8_t* p, int n) { return _mm256_cvtepi32_ps(load_few(p, n)); }

  static void transpose(Vector (&rows)[8]) {
    Vector t[8];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; ++j) {
        rows[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
        rows[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
      }
    }
    // rows[4 g + c] now holds column c (mod 4) of the rows 4 g to 4 g + 3 in its two 128-bit lanes.
    for (int c = 0; c < 4; ++c) {
      t[c] = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x20);
      t[4 + c] = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x31);
    }
    for (int i = 0; i < 8; ++i) rows[i] = t[i];
  }

 private:
  // The sum's last bits are n and the bias, at the place of the exponent after the shift.
  static Vector power_of_2(Vector n) {
    const __m256i bits = _mm256_castps_si256(add(n, broadcast(0x1.8p23F + 127)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
  }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256i load_few(const uint8_t* p, int n) {
    uint64_t bytes = 0;
    copy_few<width>(&bytes, p, n);
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
  }
  // The middle two of the four 64-bit pairs change places.
  static Vector order_pairs(Vector v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
  }
  static Vector widen(__m128i bits, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Vector widen(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }
  static __m128i narrow_bfloat16(Vector v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i last_bit = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(last_bit, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const Mask is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
    const __m256i high = _mm256_srli_epi32(chosen, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

template <>
struct Avx2<double> {
  using Scalar = double;
  using Vector = __m256d;
  using Mask = __m256d;
  using Words = Avx2Words;
  static constexpr int width = 4;
  static constexpr int registers = 16;

  static Vector zero() { return _mm256_setzero_pd(); }
  static Vector broadcast(double value) { return _mm256_set1_pd(value); }
  static Vector load(const double* p) { return _mm256_loadu_pd(p); }
  static Vector load_partial(const double* p, int n) { return _mm256_maskload_pd(p, first(n)); }
  static void store(double* p, Vector v) { _mm256_storeu_pd(p, v); }
  static void store_partial(double* p, Vector v, int n) {
    if (n == width) return store(p, v);
    __m128d part = _mm256_castpd256_pd128(v);
    if ((n & 2) != 0) {
      _mm_storeu_pd(p, part);
      part = _mm256_extractf128_pd(v, 1), p += 2;
    }
    if ((n & 1) != 0) _mm_store_sd(p, part);
  }

  static Mask mask_of(uint32_t bits) {
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(bits), bit);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, bit));
  }
  static Vector load_masked(const double* p, Mask mask) {
    return _mm256_maskload_pd(p, _mm256_castpd_si256(mask));
  }
  template <int n>
  static Vector shift_masked(Vector v, Mask mask) {
    constexpr auto from = [](int i) { return (i + n) & 3; };
    constexpr auto inside = [](int i) { return 0 <= i + n && i + n < width ? -1 : 0; };
    const __m256i kept = _mm256_setr_epi64x(inside(0), inside(1), inside(2), inside(3));
    constexpr int kOrder = from(0) | from(1) << 2 | from(2) << 4 | from(3) << 6;
    const Vector moved = _mm256_permute4x64_pd(v, kOrder);
    return _mm256_and_pd(moved, _mm256_and_pd(mask, _mm256_castsi256_pd(kept)));
  }

  static Vector add(Vector a, Vector b) { return _mm256_add_pd(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_pd(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_pd(a, b); }
  static Vector div(Vector a, Vector b) { return _mm256_div_pd(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
  static Vector abs(Vector v) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), v); }
  static Vector sqrt(Vector v) { return _mm256_sqrt_pd(v); }
  static Vector min(Vector a, Vector b) { return _mm256_min_pd(a, b); }
  static double reduce_add(Vector v) {
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }

  static Vector max_or_nan(Vector v, Vector bound) { return _mm256_max_pd(bound, v); }
  static Vector max_of(Vector a, Vector b) {
    return _mm256_blendv_pd(_mm256_max_pd(a, b), a, _mm256_cmp_pd(a, a, _CMP_UNORD_Q));
  }
  static Vector min_or_nan(Vector v, Vector bound) { return _mm256_min_pd(bound, v); }
  static Mask positive(Vector v) { return _mm256_cmp_pd(v, zero(), _CMP_GT_OQ); }
  static Mask not_positive(Vector v) { return _mm256_cmp_pd(v, zero(), _CMP_LE_OQ); }
  static Mask greater_or_nan(Vector a, Vector b) {
    return _mm256_or_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ), _mm256_cmp_pd(a, a, _CMP_UNORD_Q));
  }
  static Mask equal(Vector a, Vector b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static Mask less_equal(Vector a, Vector b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
  static Vector select(Mask mask, Vector yes, Vector no) { return _mm256_blendv_pd(no, yes, mask); }

  static Vector copy_sign(Vector v, Vector sign) {
    const Vector bit = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(bit, v), _mm256_and_pd(bit, sign));
  }
  static Vector round(Vector v) { return _mm256_round_pd(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vector times_power_of_2(Vector v, Vector n) {
    const Vector half = round(mul(n, broadcast(0.5)));
    return mul(mul(v, power_of_2(half)), power_of_2(sub(n, half)));
  }

  static Vector even(Vector a, Vector b) { return _mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), 0xd8); }
  static Vector odd(Vector a, Vector b) { return _mm256_permute4x64_pd(_mm256_unpackhi_pd(a, b), 0xd8); }
  static Vector interleave_low(Vector a, Vector b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x20);
  }
  static Vector interleave_high(Vector a, Vector b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x31);
  }

  static void store_bytes(uint8_t* p, Vector v, int n) {
    const __m128i whole = _mm256_cvttpd_epi32(v);
    const __m128i words = _mm_packus_epi32(whole, whole);
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    copy_few<width>(p, &bytes, n);
  }
  static Vector load_bytes(const uint8_t* p, int n) {
    int bytes = 0;
    copy_few<width>(&bytes, p, n);
    return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)));
  }

  static void transpose(Vector (&rows)[4]) {
    Vector t[4];
    for (int i = 0; i < 4; i += 2) {
      t[i] = _mm256_unpacklo_pd(rows[i], rows[i + 1]);
      t[i + 1] = _mm256_unpackhi_pd(rows[i], rows[i + 1]);
    }
    // t[2 g + c] holds column c (mod 2) of the rows 2 g and 2 g + 1 in its two 128-bit lanes.
    for (int c = 0; c < 2; ++c) {
      rows[c] = _mm256_permute2f128_pd(t[c], t[2 + c], 0x20);
      rows[2 + c] = _mm256_permute2f128_pd(t[c], t[2 + c], 0x31);
    }
  }

 private:
  // The sum's last bits are n and the bias, at the place of the exponent after the shift.
  static Vector power_of_2(Vector n) {
    const __m256i bits = _mm256_castpd_si256(add(n, broadcast(0x1.8p52 + 1023)));
    return _mm256_castsi256_pd(_mm256_slli_epi64(bits, 52));
  }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
};

}  // namespace lenet_ext::simd
