// Transpositions between a few rows and pixels that lie one behind the other, by rounds in which two streams of
// elements become one, or one becomes two: with kRows rows, kRows * log2(kRows) shuffles for as many vectors, where a
// transposition of whole vectors would move mostly nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace lenet_ext::cpu {

// The lanes of a vector of pixels of kRows elements each, of which `rows` are wanted: where the elements of pixels that
// lie close together come from, and for each lane where in those it is found.
template <int kWidth>
struct PixelLanes {
  std::array<int32_t, kWidth> close, apart;
};
// By `rows`.
template <int kWidth, int kRows>
inline constexpr auto kPixelLanes = [] {
  std::array<PixelLanes<kWidth>, kRows + 1> table{};
  for (int rows = 1; rows <= kRows; ++rows) {
    for (int i = 0; i < kWidth; ++i) {
      table[rows].close[i] = std::min(i / rows * kRows + i % rows, kWidth - 1);
      table[rows].apart[i] = i / kRows * rows + std::min(i % kRows, rows - 1);
    }
  }
  return table;
}();

// destination[i * rows + row] = source[row * source_stride + i], for rows in (kRows / 2, kRows].
template <class S, int kRows, class From, class To>
void zip_rows(const From* source, int64_t source_stride, To* destination, int rows, int64_t count) {
  using V = typename S::Vector;
  constexpr int width = S::width, pixels = width / kRows;  // in a vector of results
  const PixelLanes<width>& lanes = kPixelLanes<width, kRows>[rows];
  for (int64_t i = 0; i < count; i += width) {
    const int n = static_cast<int>(std::min<int64_t>(width, count - i));
    V streams[kRows], longer[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const From* from = source + r * source_stride + i;
      streams[r] = r >= rows ? S::zero() : n == width ? S::load(from) : S::load_partial(from, n);
    }
#pragma GCC unroll 3
    for (int length = 1; length < kRows; length *= 2) {
      const int half = kRows / 2;  // vectors from the one stream to the other
#pragma GCC unroll 8
      for (int v = 0; v < half; ++v) {
        longer[2 * v] = S::interleave_low(streams[v], streams[v + half]);
        longer[2 * v + 1] = S::interleave_high(streams[v], streams[v + half]);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kRows; ++v) streams[v] = longer[v];
    }
#pragma GCC unroll 8
    for (int v = 0; v < kRows; ++v) {
      const int left = std::min(n - v * pixels, pixels);
      if (left <= 0) break;
      if constexpr (requires { &S::permute; }) {
        if (rows < kRows) streams[v] = S::permute(streams[v], lanes.close.data());
      }
      To* const to = destination + (i + v * pixels) * rows;
      left* rows == width ? S::store(to, streams[v]) : S::store_partial(to, streams[v], left * rows);
    }
  }
}

// destination[row * destination_stride + i] = source[i * rows + row], for rows in (kRows / 2, kRows].
template <class S, int kRows, class From, class To>
void unzip_rows(const From* source, To* destination, int64_t destination_stride, int rows, int64_t count) {
  using V = typename S::Vector;
  constexpr int width = S::width, pixels = width / kRows;
  const PixelLanes<width>& lanes = kPixelLanes<width, kRows>[rows];
  for (int64_t i = 0; i < count; i += width) {
    const int n = static_cast<int>(std::min<int64_t>(width, count - i));
    V streams[kRows], shorter[kRows];
#pragma GCC unroll 8
    for (int v = 0; v < kRows; ++v) {
      const int left = std::clamp(n - v * pixels, 0, pixels);
      const From* from = source + (i + v * pixels) * rows;
      streams[v] = left * rows == width ? S::load(from)
                   : left == 0          ? S::zero()
                                        : S::load_partial(from, left * rows);
      if constexpr (requires { &S::permute; }) {
        if (rows < kRows) streams[v] = S::permute(streams[v], lanes.apart.data());
      }
    }
#pragma GCC unroll 3
    for (int length = kRows; length > 1; length /= 2) {
      const int half = kRows / 2;
#pragma GCC unroll 8
      for (int v = 0; v < half; ++v) {
        shorter[v] = S::even(streams[2 * v], streams[2 * v + 1]);
        shorter[v + half] = S::odd(streams[2 * v], streams[2 * v + 1]);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kRows; ++v) streams[v] = shorter[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      To* const to = destination + r * destination_stride + i;
      n == width ? S::store(to, streams[r]) : S::store_partial(to, streams[r], n);
    }
  }
}

// body(integral_constant of the power of two that is at least `rows`), where an instruction set has rounds for so few
// rows; returns whether it has.
template <class S, class Body>
bool with_few_rows(int64_t rows, const Body& body) {
  constexpr bool permutes = requires { &S::permute; };
  const auto fits = [&](int64_t power) {
    return power <= S::width / 2 && rows <= power && (permutes || rows == power);
  };
  if (rows < 2) return false;
  if (fits(2)) return body(std::integral_constant<int, 2>{}), true;
  if (S::width >= 8 && fits(4)) return body(std::integral_constant<int, S::width >= 8 ? 4 : 2>{}), true;
  if (S::width >= 16 && fits(8)) return body(std::integral_constant<int, S::width >= 16 ? 8 : 2>{}), true;
  return false;
}

}  // namespace lenet_ext::cpu
