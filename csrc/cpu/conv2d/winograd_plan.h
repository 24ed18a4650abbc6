// How an instruction set computes a convolution in the Winograd domain (winograd_conv2d.h): where that is the
// better way, the sizes of all working memory, and what is where in it.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/conv2d/caller.h"
#include "cpu/microkernels/contract.h"
#include "shapes.h"

namespace lenet_ext::cpu {

template <class S>
struct WinogradPlan {
  static constexpr int kWidth = S::width;

  const Conv2dShape shape;
  const bool pooled;                           // by 2x2 windows
  const int64_t taps;                          // rows of the kernel that meet a phase of the stride
  const int64_t rows, points, outputs, tiles;  // output rows that are needed; per tile; tiles
  const int64_t pitch, terms;                  // a padded row; products per point and output
  const bool lanes_are_channels;
  const int tile_vectors;  // of a contract tile
  const int64_t taps_per_step;
  const int64_t channels;                 // output channels, up to whole contract tiles
  const int64_t block_tiles, plane;       // of the points of a channel
  const int64_t products_at_once;         // by one call of a contract tile
  const int64_t group_tiles;              // that a thread does at least, whole blocks
  std::vector<Step> steps, direct_steps;  // of one point; of DirectRows

  // float64 is left to the direct way, for those who ask for every digit.
  static bool suits(const Conv2dShape& s, bool pooled) {
    // Per point; with fewer the transformations cost more than is saved.
    const bool strided = s.stride_h > 1 || s.stride_w > 1;
    const int64_t least_terms = strided                           ? kLeastTermsOfPhases
                                : s.kernel_height == 3 && !pooled ? kLeastTermsOfSixPoints
                                                                  : 9;
    // Phases of two rows, and pixels that are broadcast one by one.
    const bool fits = strided ? !pooled && s.kernel_height == 2 * s.stride_h && s.out_channels >= kWidth
                              : s.kernel_height == 3 || s.kernel_height == 5;
    constexpr int64_t kLargest = int64_t{1} << 26;  // offsets, up to 20 times as large, are 32 bits wide
    const int64_t planes = s.in_channels * s.stride_h, most = kLargest / std::max<int64_t>(planes, 1);
    if (s.width > most || s.pad_left > most || s.pad_right > most || s.out_channels > most / s.kernel_width) {
      return false;
    }
    return sizeof(typename S::Scalar) == sizeof(float) && s.groups == 1 && fits && s.dilation_h == 1 &&
           s.dilation_w == 1 && planes * s.kernel_width >= least_terms &&
           planes * s.kernel_width <= kLargest / 32 && s.out_channels >= 4;
  }
  // A layer transforms its weights for one call, which must have pixels enough to repay that.
  static bool pays(const Conv2dShape& s, Caller caller) {
    return caller == Caller::kEngine || s.batch * s.out_height * s.out_width >= 512;
  }
  // Whether it has clearly fewer products than the direct way, which leaves out rows of padding, and windows
  // that lie in the padding so little that the guard lets them pass.
  static bool saves(const Conv2dShape& s) {
    constexpr double kClearly = 1.25;
    int64_t rows = 0;
    for (int64_t y = -s.pad_top; y < s.out_height - s.pad_top; ++y) {
      rows += std::max<int64_t>(std::min(y + s.kernel_height, s.height) - std::max<int64_t>(y, 0), 0);
    }
    const int64_t points = best_points(s, s.out_height), outputs = points + 1 - s.kernel_height;
    const int64_t products = (s.out_height + outputs - 1) / outputs * points;
    return kClearly * static_cast<double>(products) <= static_cast<double>(rows) &&
           2 * std::max(s.pad_top, s.pad_bottom) < s.kernel_height &&
           2 * std::max(s.pad_left, s.pad_right) < s.kernel_width;
  }
  // Whether the pool that follows can be done in the same pass.
  static bool suits(const MaxPool2dShape& p) {
    return p.kernel_height == 2 && p.kernel_width == 2 && p.stride_h == 2 && p.stride_w == 2 &&
           p.pad_h == 0 && p.pad_w == 0 && p.dilation_h == 1 && p.dilation_w == 1 &&
           2 * p.out_height <= p.height && 2 * p.out_width <= p.width;
  }

  WinogradPlan(const Conv2dShape& s, bool pooled)
      : shape(s),
        pooled(pooled),
        taps(s.kernel_height / s.stride_h),
        rows(pooled ? s.out_height / 2 * 2 : s.out_height),
        points(best_points(s, rows)),
        outputs(points + 1 - taps),
        tiles((rows + outputs - 1) / outputs),
        pitch(s.width + s.pad_left + s.pad_right),
        terms(in_planes() * s.kernel_width),
        lanes_are_channels(s.stride_w > 1 || channel_vectors() * s.out_width <
                                                 s.out_channels * ((pitch + kWidth - 1) / kWidth)),
        tile_vectors(lanes_are_channels ? even_tile_vectors()
                                        : best_tile_vectors<S>(s.out_channels, kMaxVectors)),
        taps_per_step(lanes_are_channels && tile_vectors == 1 && s.stride_w == 1 &&
                              ContractTiles<S>::has(static_cast<int>(s.kernel_width), 1)
                          ? s.kernel_width
                          : 1),
        channels((s.out_channels + tile_vectors * kWidth - 1) / (tile_vectors * kWidth) * tile_vectors *
                 kWidth),
        block_tiles(lanes_are_channels ? 1 : std::clamp<int64_t>(tile_vectors * kWidth / pitch, 1, tiles)),
        plane(block_tiles * pitch),
        products_at_once(std::max<int64_t>(kAtOnceBytes / point_bytes(), 1)),
        group_tiles(std::min(tiles, (kGroupCycles / tile_cost() / block_tiles + 1) * block_tiles)) {
    const int64_t block = lanes_are_channels ? tile_vectors * kWidth : channels;
    for (int64_t c = 0; c < in_planes(); ++c) {
      for (int64_t kw = 0; kw < s.kernel_width; kw += taps_per_step) {
        const auto weight = static_cast<int32_t>((c * s.kernel_width + kw) * block);
        const auto value = static_cast<int32_t>(c * plane + kw);
        steps.push_back(lanes_are_channels ? Step{value, weight} : Step{weight, value});
      }
    }
    for (int64_t row = 0; row < taps; ++row) {
      for (int64_t c = 0; c < in_planes(); ++c) {
        const int64_t kernel_row = c / s.stride_h * s.kernel_height + row * s.stride_h + c % s.stride_h;
        for (int64_t kw = 0; kw < s.kernel_width; kw += taps_per_step) {
          const int64_t tap = kernel_row * s.kernel_width + kw;
          const auto weight = static_cast<int32_t>(tap * channels);
          const auto value = static_cast<int32_t>(row * points_size() + c * plane + kw);
          direct_steps.push_back(lanes_are_channels ? Step{value, weight} : Step{weight, value});
        }
      }
    }
  }

  // Cycles, roughly.
  int64_t tile_cost() const {
    return points * (terms * shape.out_width * shape.out_channels / kWidth / 2 + 50);
  }
  int64_t tile_rows() const { return outputs / (pooled ? 2 : 1); }  // after the pool
  // After the pool.
  int64_t out_rows() const { return pooled ? shape.out_height / 2 : shape.out_height; }
  int64_t out_columns() const { return pooled ? shape.out_width / 2 : shape.out_width; }
  int64_t out_pixels() const { return out_rows() * out_columns(); }
  // That are needed, before the pool.
  int64_t columns() const { return pooled ? 2 * out_columns() : out_columns(); }
  // Input channels, with a stride the phases of their rows.
  int64_t in_planes() const { return shape.in_channels * shape.stride_h; }
  // Elements of the points of one point; of its products, for the whole block or with channels as lanes for
  // one tile.
  int64_t points_size() const { return in_planes() * plane; }
  int64_t products_size() const {
    return lanes_are_channels ? shape.out_width * channels : shape.out_channels * products_pitch();
  }
  int64_t products_pitch() const { return (plane + kWidth - 1) / kWidth * kWidth; }

 private:
  static constexpr int64_t kLeastTermsOfSixPoints = 48;  // for three rows
  static constexpr int64_t kLeastTermsOfPhases = 48;     // of a stride
  static constexpr int64_t kAtOnceBytes = 20 * 1024;     // of the first-level cache
  static constexpr int64_t kGroupCycles = 100'000;       // the first rows of a group are read twice

  // With the fewest products for so many rows. The sums of few products of three rows differ so much that the
  // guard would leave little to six points.
  static int64_t best_points(const Conv2dShape& s, int64_t rows) {
    if (s.kernel_height == 2 * s.stride_h) return 4;
    if (s.kernel_height == 3) return s.in_channels * s.kernel_width < kLeastTermsOfSixPoints ? 4 : 6;
    return (rows + 3) / 4 * 8 < (rows + 1) / 2 * 6 ? 8 : 6;
  }
  // What the contract tiles of one point read again and again.
  int64_t point_bytes() const {
    const int64_t weights = terms * (lanes_are_channels ? tile_vectors * kWidth : channels);
    return (weights + points_size()) * int64_t{sizeof(typename S::Scalar)};
  }
  int64_t channel_vectors() const { return (shape.out_channels + kWidth - 1) / kWidth; }
  // Contract tiles of about equal size, since the last one is not smaller.
  int even_tile_vectors() const {
    const int64_t vectors = channel_vectors(), most = best_tile_vectors<S>(shape.out_width, vectors);
    const int64_t contract_tiles = (vectors + most - 1) / most;
    return static_cast<int>((vectors + contract_tiles - 1) / contract_tiles);
  }
};

}  // namespace lenet_ext::cpu
