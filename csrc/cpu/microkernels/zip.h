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
  const PixelLanes<width>& from_lanes = kPixelLanes<width, kRows>[rows];
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
        if (rows < kRows) streams[v] = S::permute(streams[v], from_lanes.close.data());
      }
      To* const to = destination + (i + v * pixels) * rows;
      const int lanes = left * rows;
      lanes == width ? S::store(to, streams[v]) : S::store_partial(to, streams[v], lanes);
    }
  }
}

// destination[row * destination_stride + i] = source[i * rows + row], for rows in (kRows / 2, kRows].
template <class S, int kRows, class From, class To>
void unzip_rows(const From* source, To* destination, int64_t destination_stride, int rows, int64_t count) {
  using V = typename S::Vector;
  constexpr int width = S::width, pixels = width / kRows;
  const PixelLanes<width>& from_lanes = kPixelLanes<width, kRows>[rows];
  for (int64_t i = 0; i < count; i += width) {
    const int n = static_cast<int>(std::min<int64_t>(width, count - i));
    V streams[kRows], shorter[kRows];
#pragma GCC unroll 8
    for (int v = 0; v < kRows; ++v) {
      const int lanes = std::clamp(n - v * pixels, 0, pixels) * rows;
      const From* from = source + (i + v * pixels) * rows;
      streams[v] = lanes == width ? S::load(from) : lanes == 0 ? S::zero() : S::load_partial(from, lanes);
      if constexpr (requires { &S::permute; }) {
        if (rows < kRows) streams[v] = S::permute(streams[v], from_lanes.apart.data());
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
  const auto runs = [&]<int kRows>(std::integral_constant<int, kRows> power) {
    if constexpr (2 * kRows <= S::width) {
      if (rows <= kRows / 2 || rows > kRows || (rows < kRows && !permutes)) return false;
      body(power);
      return true;
    }
    return false;
  };
  return runs(std::integral_constant<int, 2>{}) || runs(std::integral_constant<int, 4>{}) ||
         runs(std::integral_constant<int, 8>{});
}

}  // namespace lenet_ext::cpu
