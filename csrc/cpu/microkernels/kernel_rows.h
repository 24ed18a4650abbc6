// The microkernel of conv2d's weight gradient with output channels as lanes: a tile of `Groups` rows of a
// kernel, `Taps` neighbouring taps each, as accumulators of one vector,
//
//   sums[g][tap] += sum over images n, rows y, pixels x of
//       a[a_offset[g] + n * a_image_stride + y * a_row_stride + (x + tap) * a_stride]
//       * b[((n * rows + y) * columns + x) * b_stride]
//
// with vectors sums[g][tap] and b[...]; `a` is broadcast. A step takes several neighbouring pixels, whose
// windows overlap: a value of `a` is broadcast once for all of them. So neither the input has to be
// rearranged, nor do broadcasts outnumber what can be loaded.
//
// Registers: Groups * Taps accumulators, a vector for each pixel of a step, one for the broadcast.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace lenet_ext::cpu {

template <class T>
struct KernelRows {
  const T* a;
  const int64_t* a_offset;  // of each group
  int64_t a_stride, a_row_stride, a_image_stride;
  const T* b;
  int64_t b_stride;
  int64_t images, rows, columns;  // pixels
  T* sums;                        // added to
  int64_t sums_stride;            // from tap to tap, groups following each other
};

template <class S, int Taps>
class KernelRowTiles {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  // Of a step: as many as leave few broadcasts, and as divide the usual widths.
  static constexpr int kPixels = Taps > 3 ? 5 : 4;

 public:
  static constexpr int kMostGroups = std::min((S::registers - 1 - kPixels) / Taps, 8);

  // groups: of t, any number; tiles of about equal size.
  static void run(const KernelRows<T>& whole, int64_t groups) {
    KernelRows<T> t = whole;
    for (int64_t tiles = (groups + kMostGroups - 1) / kMostGroups; tiles > 0; --tiles) {
      const int64_t count = (groups + tiles - 1) / tiles;
      kTiles[count - 1](t);
      groups -= count;
      t.a_offset += count;
      t.sums += count * Taps * t.sums_stride;
    }
  }

 private:
  // A step of so many pixels.
  template <int Groups, int Pixels>
  [[gnu::always_inline]] static void step(const KernelRows<T>& t, const T* const (&a)[Groups], int64_t shift,
                                          const T* b, V (&acc)[Groups][Taps]) {
    V factor[Pixels];
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p) factor[p] = S::load(b + p * t.b_stride);
#pragma GCC unroll 16
    for (int i = 0; i < Taps + Pixels - 1; ++i) {
#pragma GCC unroll 16
      for (int g = 0; g < Groups; ++g) {
        const V value = S::broadcast(a[g][shift + i * t.a_stride]);
#pragma GCC unroll 16
        for (int p = 0; p < Pixels; ++p) {
          const int tap = i - p;
          if (tap >= 0 && tap < Taps) acc[g][tap] = S::fma(value, factor[p], acc[g][tap]);
        }
      }
    }
  }

  template <int Groups>
  static void tile(const KernelRows<T>& t) {
    V acc[Groups][Taps];
#pragma GCC unroll 16
    for (int g = 0; g < Groups; ++g) {
#pragma GCC unroll 16
      for (int tap = 0; tap < Taps; ++tap) acc[g][tap] = S::load(t.sums + (g * Taps + tap) * t.sums_stride);
    }
    const T* a[Groups];
#pragma GCC unroll 16
    for (int g = 0; g < Groups; ++g) a[g] = t.a + t.a_offset[g];
    const T* b = t.b;
    for (int64_t n = 0; n < t.images; ++n) {
      for (int64_t y = 0; y < t.rows; ++y) {
        int64_t x = 0, shift = n * t.a_image_stride + y * t.a_row_stride;
        for (; x + kPixels <= t.columns; x += kPixels, b += kPixels * t.b_stride) {
          step<Groups, kPixels>(t, a, shift + x * t.a_stride, b, acc);
        }
        for (; x < t.columns; ++x, b += t.b_stride) step<Groups, 1>(t, a, shift + x * t.a_stride, b, acc);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < Groups; ++g) {
#pragma GCC unroll 16
      for (int tap = 0; tap < Taps; ++tap) S::store(t.sums + (g * Taps + tap) * t.sums_stride, acc[g][tap]);
    }
  }

  static constexpr auto kTiles = []<int... G>(std::integer_sequence<int, G...>) {
    return std::array{&tile<G + 1>...};
  }(std::make_integer_sequence<int, kMostGroups>{});
};

}  // namespace lenet_ext::cpu
