// What moves elements between lanes, and whole numbers as bytes.
#pragma once

#include <algorithm>

#include "check.h"
#include "memory.h"

namespace lenet_ext::simd {

template <class S>
void test_pairs() {
  using T = typename S::Scalar;
  constexpr int kWidth = S::width;
  const Elements<S> first = numbered<S>(0), second = numbered<S>(kWidth);
  const typename S::Vector a = vector_of<S>(first), b = vector_of<S>(second);
  const Elements<S> even = elements_of<S>(S::even(a, b)), odd = elements_of<S>(S::odd(a, b));
  const Elements<S> low = elements_of<S>(S::interleave_low(a, b)),
                    high = elements_of<S>(S::interleave_high(a, b));
  const auto interleaved = [&](int place) { return place % 2 == 0 ? first[place / 2] : second[place / 2]; };
  for (int i = 0; i < kWidth; ++i) {
    expect_bits("even", i, even[i], static_cast<T>(2 * i));
    expect_bits("odd", i, odd[i], static_cast<T>(2 * i + 1));
    expect_bits("interleave_low", i, low[i], interleaved(i));
    expect_bits("interleave_high", i, high[i], interleaved(kWidth + i));
  }
}

template <class S, int kPlaces>
void test_shift() {
  if constexpr (-S::width < kPlaces && kPlaces < S::width) {
    using T = typename S::Scalar;
    const auto vector = vector_of<S>(numbered<S>(1));
    for (uint32_t bits = 0; bits < 1u << S::width; ++bits) {
      const Elements<S> shifted = elements_of<S>(S::template shift_masked<kPlaces>(vector, S::mask_of(bits)));
      for (int i = 0; i < S::width; ++i) {
        const bool kept = (bits >> i & 1) != 0 && 0 <= i + kPlaces && i + kPlaces < S::width;
        expect_bits("shift_masked", i, shifted[i], static_cast<T>(kept ? 1 + i + kPlaces : 0));
      }
    }
  }
}

template <class S>
void test_shifts() {
  test_shift<S, -2>(), test_shift<S, -1>(), test_shift<S, 0>(), test_shift<S, 1>(), test_shift<S, 2>();
}

template <class S>
void test_transpose() {
  typename S::Vector rows[S::width];
  for (int i = 0; i < S::width; ++i) rows[i] = vector_of<S>(numbered<S>(i * S::width));
  S::transpose(rows);
  for (int i = 0; i < S::width; ++i) {
    for (int j = 0; j < S::width; ++j) {
      expect_bits("transpose", j, elements_of<S>(rows[i])[j],
                  static_cast<typename S::Scalar>(j * S::width + i));
    }
  }
}

template <class S>
void test_bytes() {
  using T = typename S::Scalar;
  for (int first = 0; first < 256; ++first) {
    Elements<S> values;
    for (int i = 0; i < S::width; ++i) values[i] = static_cast<T>((first + 37 * i) % 256);
    for (int n = 0; n <= S::width; ++n) {
      auto* const bytes = before_edge<uint8_t>(n);
      S::store_bytes(bytes, vector_of<S>(values), n);
      for (int i = 0; i < n; ++i) expect_bits("store_bytes", i, bytes[i], static_cast<uint8_t>(values[i]));
      const Elements<S> loaded = elements_of<S>(S::load_bytes(bytes, n));
      for (int i = 0; i < S::width; ++i) {
        expect_bits("load_bytes", i, loaded[i], i < n ? values[i] : T(0));
      }
      uint8_t around[S::width + 1];
      std::memset(around, 0x5a, sizeof(around));
      S::store_bytes(around, vector_of<S>(values), n);
      for (int i = n; i <= S::width; ++i) {
        expect_bits("store_bytes behind the end", i, around[i], uint8_t{0x5a});
      }
    }
  }
}

// These are of AVX-512 alone.
template <class S>
void test_interleave3() {
  if constexpr (requires { &S::interleave3; }) {
    const auto vector = [](int k) { return vector_of<S>(numbered<S>(k * S::width)); };
    auto* const all = before_edge<typename S::Scalar>(3 * S::width);
    S::interleave3(vector(0), vector(1), vector(2), all);
    for (int i = 0; i < 3 * S::width; ++i) {
      expect_bits("interleave3", i, all[i], static_cast<typename S::Scalar>(i % 3 * S::width + i / 3));
    }
  }
}

template <class S>
void test_compress_nonzero() {
  if constexpr (requires { &S::compress_nonzero; }) {
    constexpr int kWidth = S::width, kLast = 900;
    int32_t table[16];
    for (int i = 0; i < 16; ++i) table[i] = 100 * i - 300;  // some sums lie outside of [0, kLast]
    for_each_tuple<S, 1>([&](const auto& operands) {
      const Elements<S>& values = operands[0];
      int32_t base[kWidth];
      uint8_t bytes[kWidth];
      for (int i = 0; i < kWidth; ++i) base[i] = 7 * i, bytes[i] = static_cast<uint8_t>(i * 83);
      for (int n = 0; n <= kWidth; ++n) {
        float kept[kWidth];
        int32_t offsets[kWidth];
        const int count = S::compress_nonzero(values.data(), base, bytes, n, table, kLast, kept, offsets);
        int expected = 0;
        for (int i = 0; i < n; ++i) {
          if (values[i] == 0) continue;
          expect_bits("compress_nonzero: value", expected, kept[expected], values[i]);
          expect_bits("compress_nonzero: offset", expected, offsets[expected],
                      std::clamp<int32_t>(base[i] + table[bytes[i] % 16], 0, kLast));
          ++expected;
        }
        expect_bits("compress_nonzero: count", 0, count, expected);
      }
    });
  }
}

template <class S>
void test_lanes() {
  test_pairs<S>();
  test_shifts<S>();
  test_transpose<S>();
  test_bytes<S>();
  test_interleave3<S>();
  test_compress_nonzero<S>();
}

}  // namespace lenet_ext::simd
