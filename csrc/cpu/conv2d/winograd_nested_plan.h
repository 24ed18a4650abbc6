// How an instruction set computes a convolution by F(4x4, 3x3) (winograd_nested.h): where that is the better way, and
// all sizes.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/conv2d/caller.h"
#include "cpu/conv2d/winograd.h"
#include "cpu/microkernels/contract.h"
#include "shapes.h"

namespace lenet_ext::cpu {

template <class S>
struct NestedWinogradPlan {
  using Axis = Winograd<S, 3, 6>;
  static constexpr int kWidth = S::width, kSide = Axis::kPoints, kOutputs = Axis::kOutputs;
  static constexpr int kPoints = kSide * kSide;

  const Conv2dShape shape;
  const bool pooled;                       // by 2x2 windows
  const int64_t rows, columns;             // of the output that are needed, before the pool
  const int64_t tile_rows, tile_columns;   // of an image
  const int64_t depth;                     // input channels, up to whole vectors
  const int64_t block_images, block_rows;  // images of a block, or of one image tile rows
  const int tile_vectors;                  // of a contract tile
  const int64_t channels;                  // output channels, up to whole contract tiles
  std::vector<Step> steps;                 // of one point
  std::vector<Step> direct_steps;          // of the pixels of a tile, [row][column][input channel]

  // Whether all of it is possible, and has clearly fewer products than the method along the height alone.
  static bool suits(const Conv2dShape& s) {
    constexpr int64_t kLargest = int64_t{1} << 24;  // offsets, up to 20 times as large, are 32 bits wide
    const int64_t tile_columns = tiles(s.out_width), tile_rows = tiles(s.out_height);
    return sizeof(typename S::Scalar) == sizeof(float) && s.groups == 1 && s.kernel_height == 3 &&
           s.kernel_width == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
           s.dilation_w == 1 && s.pad_top < 3 && s.pad_bottom < 3 && s.pad_left < 3 && s.pad_right < 3 &&
           s.in_channels >= kLeastInChannels && s.out_channels >= kLeastOutChannels &&
           s.in_channels <= kLargest / s.out_channels &&
           s.in_channels <= kLargest / kPoints / std::max<int64_t>(tile_columns, 12) &&
           kPoints * tile_columns <= 0.7 * 18 * s.out_width && tile_rows * tile_columns >= kLeastTiles;
  }
  // A layer transforms its weights for one call. What the engine makes of an image does not depend on the batch.
  static bool pays(const Conv2dShape& s, Caller caller) {
    return caller == Caller::kEngine ||
           s.batch * tiles(s.out_height) * tiles(s.out_width) >= kLeastTilesOfLayer;
  }

  NestedWinogradPlan(const Conv2dShape& s, bool pooled)
      : shape(s),
        pooled(pooled),
        rows(pooled ? s.out_height / 2 * 2 : s.out_height),
        columns(pooled ? s.out_width / 2 * 2 : s.out_width),
        tile_rows(tiles(rows)),
        tile_columns(tiles(columns)),
        depth((s.in_channels + kWidth - 1) / kWidth * kWidth),
        block_images(images_per_block()),
        block_rows(rows_per_block()),
        tile_vectors(best_vectors()),
        channels((s.out_channels + block_channels() - 1) / block_channels() * block_channels()) {
    for (int64_t c = 0; c < s.in_channels; ++c) {
      steps.push_back({static_cast<int32_t>(c), static_cast<int32_t>(c * block_channels())});
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t pixel = tap / 3 * kSide + tap % 3;
        direct_steps.push_back(
            {static_cast<int32_t>(pixel * depth + c), static_cast<int32_t>((c * 9 + tap) * channels)});
      }
    }
  }

  // Where all images make one block, its output channels are for several threads; each of them transforms the input.
  int64_t channel_parts() const {
    constexpr int64_t kLeastCycles = 50'000;
    const bool one_block = block_images == shape.batch && block_rows == tile_rows;
    const int64_t most = std::min(block_tiles() * tile_cost() / kLeastCycles, kMostParts);
    return one_block ? std::clamp<int64_t>(most, 1, channels / block_channels()) : 1;
  }
  int64_t image_tiles() const { return tile_rows * tile_columns; }
  int64_t block_tiles() const { return block_images * block_rows * tile_columns; }
  int64_t block_channels() const { return int64_t{tile_vectors} * kWidth; }
  // Elements from a point to the next. A line more than needed, lest all points of a tile share a few sets of the
  // first-level cache.
  int64_t value_step() const { return block_tiles() * depth + kLine; }
  int64_t product_step() const { return block_tiles() * block_channels() + kLine; }
  int64_t weight_step() const { return shape.in_channels * block_channels() + kLine; }
  // After the pool.
  int64_t out_rows() const { return pooled ? rows / 2 : rows; }
  int64_t out_columns() const { return pooled ? columns / 2 : columns; }
  int64_t out_pixels() const { return out_rows() * out_columns(); }
  int64_t out_side() const { return pooled ? kOutputs / 2 : kOutputs; }  // of a tile
  // Cycles of a tile, roughly.
  int64_t tile_cost() const {
    return kPoints * (depth * channels / kWidth / 2 + (depth + channels) / kWidth * 8);
  }

 private:
  // With fewer the transformations cost what is saved, and the guard refuses too much.
  static constexpr int64_t kLeastInChannels = 48, kLeastOutChannels = 32;
  static constexpr int64_t kLine = 16;  // elements of a cache line
  static constexpr int64_t kMostParts = 4;
  // Fewer do not repay the weights, which are twice as many as in the method along the height.
  static constexpr int64_t kLeastTiles = 4, kLeastTilesOfLayer = 8;

  static int64_t tiles(int64_t size) { return (size + kOutputs - 1) / kOutputs; }
  // Whose values take 256 KiB, a part of the second-level cache: each tile more, and the weights are read less often.
  int64_t wanted_tiles() const { return std::clamp<int64_t>(256 * 1024 / (4 * kPoints) / depth, 12, 48); }
  // An even number of blocks, where there are several, for two threads.
  int64_t images_per_block() const {
    const int64_t blocks = (shape.batch * image_tiles() + wanted_tiles() / 2) / wanted_tiles();
    if (blocks <= 1) return std::max<int64_t>(shape.batch, 1);
    const int64_t even = (blocks + 1) / 2 * 2;
    return std::max<int64_t>((shape.batch + even - 1) / even, 1);
  }
  int64_t rows_per_block() const {
    return block_images > 1 ? tile_rows : std::clamp<int64_t>(wanted_tiles() / tile_columns, 1, tile_rows);
  }
  // With the least cost, if the last contract tile is not smaller than the others.
  int best_vectors() const {
    const int64_t vectors = (shape.out_channels + kWidth - 1) / kWidth;
    const auto cost = [&](int v) {
      return tiled_cost<S>(block_images * block_rows * tile_columns, (vectors + v - 1) / v * v, v);
    };
    int best = 1;
    for (int v = 2; v <= kBlockVectors; ++v) {
      if (cost(v) < cost(best)) best = v;
    }
    return best;
  }
};

}  // namespace lenet_ext::cpu
