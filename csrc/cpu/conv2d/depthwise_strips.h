// How a depthwise convolution reads planes: by strips of as many neighbouring output pixels as a vector has
// lanes, down all rows. What a tap meets at a strip is one load, with the lanes masked off that lie in the
// padding: nothing is copied. Where two rows or more fit into a vector, a strip takes so many whole rows, which
// follow each other in memory, at once.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/conv2d/image.h"

namespace lenet_ext::cpu {

// Of one channel: where input and output pixels lie to each other.
struct PlaneGeometry {
  int64_t height, width, out_height, out_width;
  int64_t pad_top, pad_left;  // may be negative
  int64_t stride;

  int64_t size() const { return height * width; }
  int64_t out_size() const { return out_height * out_width; }
};

inline constexpr int kMostStripLoads = 6;

// Outputs [first, first + lanes) of a row, or of `rows` whole rows; and the lanes of each load that lie in the
// image's columns and belong to an output.
struct PlaneStrip {
  int64_t first;
  int lanes;
  int64_t rows;
  // Whole rows, which the middle of a row of taps meets as they are.
  bool centred;
  uint32_t columns[kMostStripLoads];
  // Of several rows: for each step down the image and each row of taps the lanes whose rows lie in the image and
  // are those of outputs; and the steps at which these are all.
  std::vector<uint32_t> row_lanes = {};
  Range whole_steps{0, 0};
};

// The lanes of a strip of several rows whose input row, `row` of the first, lies in the image and whose output
// does, `out_rows` of which are left.
inline uint32_t lanes_of_rows(const PlaneGeometry& g, int64_t rows, int64_t row, int64_t out_rows) {
  const auto below = [](int64_t lanes) { return static_cast<uint32_t>((uint64_t{1} << lanes) - 1); };
  const int64_t begin = std::clamp<int64_t>(-row, 0, rows);
  const int64_t end = std::clamp<int64_t>(std::min(g.height - row, out_rows), begin, rows);
  return below(end * g.width) & ~below(begin * g.width);
}

// The pixels that the kTaps columns of a row of taps meet. With a stride of 2 two vectors of a row are split into
// even and odd columns, which gives two taps.
template <class S, int kTaps, int kStride>
class StripColumns {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr int kLoads = kStride == 1 ? kTaps : 2 * ((kTaps + 1) / 2);
  static_assert(kLoads <= kMostStripLoads);

  // From the pixel that the first tap meets at the strip's first output.
  static constexpr int64_t offset(int load) {
    return kStride == 1 ? load : load / 2 * 2 + load % 2 * int64_t{S::width};
  }

 public:
  static std::vector<PlaneStrip> strips(const PlaneGeometry& g) {
    const int64_t together =
        kStride == 1 && g.width == g.out_width ? std::max<int64_t>(S::width / g.width, 1) : 1;
    const int64_t rows = std::min(together, g.out_height);
    std::vector<PlaneStrip> strips;
    for (int64_t first = 0; first < g.out_width; first += S::width) {
      const int64_t columns = std::min<int64_t>(g.out_width - first, S::width), lanes = columns * rows;
      const bool centred =
          kStride == 1 && columns == g.width && g.width == g.out_width && g.pad_left == kTaps / 2;
      PlaneStrip strip{first, static_cast<int>(lanes), rows, centred, {}};
      for (int load = 0; load < kLoads; ++load) {
        for (int64_t lane = 0; lane < S::width; ++lane) {
          const int64_t output = kStride == 1 ? lane : (load % 2 * S::width + lane) / 2;
          const int64_t column =
              first * kStride - g.pad_left + offset(load) + (rows > 1 ? lane % g.out_width : lane);
          const bool inside = column >= 0 && column < g.width && output < lanes;
          strip.columns[load] |= uint32_t{inside} << lane;
        }
      }
      if (rows > 1) add_steps(g, strip);
      strips.push_back(std::move(strip));
    }
    return strips;
  }

  explicit StripColumns(const PlaneStrip& strip) : StripColumns(strip, ~uint32_t{0}) {}

  // row: the pixel that the first tap meets at the first output.
  [[gnu::always_inline]] void load(const T* row, V (&taps)[kTaps]) const {
    if constexpr (kStride == 1) {
#pragma GCC unroll 8
      for (int i = 0; i < kTaps; ++i) taps[i] = S::load_masked(row + i, masks_[i]);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < kLoads; i += 2) {
        const V low = S::load_masked(row + offset(i), masks_[i]),
                high = S::load_masked(row + offset(i + 1), masks_[i + 1]);
        taps[i] = S::even(low, high);
        if (i + 1 < kTaps) taps[i + 1] = S::odd(low, high);
      }
    }
  }
  // Of these lanes.
  void load_some(const T* row, uint32_t lanes, V (&taps)[kTaps]) const {
    StripColumns(strip_, lanes).load(row, taps);
  }

 private:
  static void add_steps(const PlaneGeometry& g, PlaneStrip& strip) {
    const auto all = static_cast<uint32_t>((uint64_t{1} << strip.lanes) - 1);
    for (int64_t y = 0, step = 0; y < g.out_height; y += strip.rows, ++step) {
      bool whole = true;
      for (int64_t row = y - g.pad_top; row < y - g.pad_top + kTaps; ++row) {
        strip.row_lanes.push_back(lanes_of_rows(g, strip.rows, row, g.out_height - y));
        whole = whole && strip.row_lanes.back() == all;
      }
      if (!whole) continue;
      if (strip.whole_steps.end == 0) strip.whole_steps.begin = step;
      strip.whole_steps.end = step + 1;
    }
  }

  StripColumns(const PlaneStrip& strip, uint32_t lanes) : strip_(strip) {
#pragma GCC unroll 8
    for (int i = 0; i < kLoads; ++i) masks_[i] = S::mask_of(strip.columns[i] & lanes);
  }

  const PlaneStrip& strip_;
  typename S::Mask masks_[kLoads];
};

// The same of a centred strip: one load, whose lanes are shifted. What they would take from beyond the strip lies in
// the padding. Loads at any address are slower, since a vector of 64 bytes then lies in two lines of the cache.
template <class S, int kTaps>
class CentredColumns {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  explicit CentredColumns(const PlaneStrip& strip)
      : all_(S::mask_of(static_cast<uint32_t>((uint64_t{1} << strip.lanes) - 1))) {
#pragma GCC unroll 8
    for (int i = 0; i < kTaps; ++i) masks_[i] = S::mask_of(strip.columns[i]);
  }

  [[gnu::always_inline]] void load(const T* row, V (&taps)[kTaps]) const {
    shift(S::load_masked(row + kTaps / 2, all_), taps);
  }
  [[gnu::always_inline]] void load_some(const T* row, uint32_t lanes, V (&taps)[kTaps]) const {
    shift(S::load_masked(row + kTaps / 2, S::mask_of(lanes)), taps);
  }

 private:
  // Inlined by command: a call would send all vectors of the caller through memory.
  [[gnu::always_inline]] void shift(V middle, V (&taps)[kTaps]) const {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
      ((taps[i] = i == kTaps / 2 ? middle : S::template shift_masked<i - kTaps / 2>(middle, masks_[i])), ...);
    }(std::make_integer_sequence<int, kTaps>{});
  }

  typename S::Mask all_, masks_[kTaps];
};

// body(what loads the pixels of this strip)
template <class S, int kTaps, int kStride, class Body>
void with_strip_columns(const PlaneStrip& strip, const Body& body) {
  if constexpr (kStride == 1) {
    if (strip.centred) return body(CentredColumns<S, kTaps>(strip));
  }
  body(StripColumns<S, kTaps, kStride>(strip));
}

// The pixel that the first tap of a row of taps meets in this row of the image.
template <int kStride, class T>
const T* first_pixel(const PlaneGeometry& g, const PlaneStrip& strip, const T* in, int64_t row) {
  return in + row * g.width + strip.first * kStride - g.pad_left;
}

// Of a strip of several rows: `step`, or the first step behind the whole ones where it is the first of these.
inline int64_t other_step(const PlaneStrip& strip, int64_t step) {
  return step == strip.whole_steps.begin ? strip.whole_steps.end : step;
}
inline int64_t steps_down(const PlaneGeometry& g, const PlaneStrip& strip) {
  return (g.out_height + strip.rows - 1) / strip.rows;
}
inline int output_lanes(const PlaneGeometry& g, const PlaneStrip& strip, int64_t step) {
  return static_cast<int>(std::min(g.out_height - step * strip.rows, strip.rows) * g.out_width);
}

}  // namespace lenet_ext::cpu
