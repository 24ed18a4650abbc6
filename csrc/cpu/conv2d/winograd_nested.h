// conv2d with 3x3 kernels, perhaps followed by a 2x2 max-pool, by F(4x4, 3x3): Winograd's method along both axes, with
// 36 products for 16 outputs, a quarter of those of direct sums. (Along the height alone it is half of them, for less to
// be transformed: winograd_conv2d.h.)
//
// All is done with channels as lanes. A block is a few images, or a few tile rows of one, so that each weight that is
// loaded serves all of its tiles:
//
//   pixels    [row][column][input channel]          of the rows that a block reads of one image
//   values    [point][tile][input channel]          the transformed input
//   products  [point][tile][output channel]         of a block of output channels: a matrix product for each point
//   results   [row][column][output channel]         of the block, to be brought into planes
//
// Outputs that the guard refuses are summed directly, from a copy of the 6x6 pixels that their tile reads.
#pragma once

#include <bit>

#include "cpu/conv2d/winograd_nested_guard.h"
#include "cpu/conv2d/winograd_nested_plan.h"
#include "cpu/conv2d/winograd_nested_tile.h"
#include "cpu/conv2d/winograd_nested_weights.h"
#include "cpu/conv2d/winograd_planes.h"
#include "cpu/max_pool2d/window.h"
#include "cpu/microkernels/contract.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class NestedWinograd {
  using T = typename S::Scalar;
  using Plan = NestedWinogradPlan<S>;
  static constexpr int kWidth = S::width, kSide = Plan::kSide, kOutputs = Plan::kOutputs,
                       kPoints = Plan::kPoints;

 public:
  // The weights are to be set before the first run.
  NestedWinograd(const Conv2dShape& shape, bool pooled) : p_(shape, pooled), weights_(p_) {}

  // The plan is referred to inside of this object.
  NestedWinograd(const NestedWinograd&) = delete;
  NestedWinograd& operator=(const NestedWinograd&) = delete;

  // bias: (O) or null.
  void set_weights(const T* weight, const T* bias, WinogradKernels kernels = WinogradKernels::kPlain) {
    weights_.set(weight, bias, kernels);
  }

  // input (N, C, H, W); output (N, O, OH, OW), or with the pool (N, O, OH / 2, OW / 2) and argmax alike; argmax may be
  // null, and must be without the pool.
  void run(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    const int64_t across = (p_.tile_rows + p_.block_rows - 1) / p_.block_rows, parts = p_.channel_parts();
    const int64_t blocks = (images + p_.block_images - 1) / p_.block_images * across;
    const int64_t units = p_.channels / p_.block_channels();
    parallel_for(blocks * parts, p_.block_tiles() * p_.tile_cost() / parts, [&](int64_t begin, int64_t end) {
      Memory memory(p_, weights_.taps().unevenness(), argmax != nullptr);
      // The parts of a block that are done by one thread are done at once.
      for (int64_t i = begin, next; i < end; i = next) {
        next = std::min(i / parts * parts + parts, end);
        const int64_t image = i / parts / across * p_.block_images, row = i / parts % across * p_.block_rows;
        const Block block{image,
                          std::min(p_.block_images, images - image),
                          row,
                          std::min(p_.block_rows, p_.tile_rows - row),
                          {units * (i % parts) / parts * p_.block_channels(),
                           units * (i % parts + next - i) / parts * p_.block_channels()}};
        argmax == nullptr ? run_block<false>(block, input, output, argmax, memory)
                          : run_block<true>(block, input, output, argmax, memory);
      }
    });
  }

 private:
  // Some images, tile rows of each, and output channels, whole contract tiles.
  struct Block {
    int64_t image, images, row, rows;
    Span channels;
  };
  // Working memory of a thread.
  struct Memory {
    Memory(const Plan& p, T unevenness, bool argmax)
        : pixels(pixels_size(p)),
          outside(p.depth),
          tile(kPoints * p.depth),
          direct(p.block_tiles() * kOutputs * kOutputs * p.channels),
          values(kPoints * p.value_step()),
          products(kPoints * p.product_step()),
          results((argmax ? 2 : 1) * results_size(p)),
          argmax(results.data() + results_size(p)),
          guard(p, unevenness),
          refused(p.block_tiles()) {
      // Channels that do not exist stay zero.
      if (p.depth > p.shape.in_channels) std::fill_n(pixels.data(), pixels_size(p), T(0));
      std::fill_n(outside.data(), p.depth, T(0));
    }
    static int64_t pixels_size(const Plan& p) {
      return (p.block_rows * kOutputs + 2) * p.shape.width * p.depth;
    }
    static int64_t results_size(const Plan& p) {
      return p.block_images * p.block_rows * p.out_side() * p.out_columns() * p.channels;
    }

    // [row][column][output channel]
    T* direct_of(const Plan& p, int64_t tile) {
      return direct.data() + tile * kOutputs * kOutputs * p.channels;
    }

    Scratch<T> pixels, outside;  // outside: a pixel of zeros
    Scratch<T> tile, direct;     // a copy of what a tile reads; direct sums by tile
    Scratch<T> values, products, results;
    T* const argmax;  // of the pool, in the layout of the results
    NestedWinogradGuard<S> guard;
    Scratch<uint32_t> refused;  // outputs, by tile of the block
  };

  template <bool kArgmax>
  void run_block(const Block& block, const T* input, T* output, uint8_t* argmax, Memory& memory) const {
    for (int64_t i = 0; i < block.images; ++i) {
      read_pixels(input + (block.image + i) * s_.in_channels * s_.height * s_.width, block, memory);
      for (int64_t row = 0; row < block.rows; ++row) {
        memory.guard.enter(row, p_.rows - (block.row + row) * kOutputs);
        for (int64_t tile = 0; tile < p_.tile_columns; ++tile) {
          const int64_t index = index_of(block, i, row, tile);
          TilePixels<T> pixels;
          find_pixels(block.row + row, tile, block, memory, pixels);
          transform_nested_input<S>(pixels, p_.depth, memory.values.data() + index * p_.depth,
                                    p_.value_step());
          const uint32_t refused = memory.guard.refused(tile);
          memory.refused[index] = refused;
          if (refused == 0) continue;
          sum_directly(pixels, refused, block.channels, memory.direct_of(p_, index), memory.tile.data());
        }
      }
    }
    multiply<kArgmax>(block, memory);
    for (int64_t i = 0; i < block.images; ++i) write_planes<kArgmax>(block, i, output, argmax, memory);
  }

  int64_t index_of(const Block& block, int64_t image, int64_t row, int64_t tile) const {
    return (image * block.rows + row) * p_.tile_columns + tile;
  }
  // The image's rows that a block reads.
  Span rows_of(const Block& block) const {
    const int64_t top = block.row * kOutputs - s_.pad_top, end = top + block.rows * kOutputs + 2;
    return {std::max<int64_t>(top, 0), std::min(end, s_.height)};
  }

  void read_pixels(const T* image, const Block& block, Memory& memory) const {
    memory.guard.read(image, block.row, block.rows);
    const Span rows = rows_of(block);
    if (rows.begin >= rows.end) return;
    transpose<S>(image + rows.begin * s_.width, s_.height * s_.width, memory.pixels.data(), p_.depth,
                 s_.in_channels, (rows.end - rows.begin) * s_.width);
  }

  void find_pixels(int64_t row, int64_t tile, const Block& block, const Memory& memory,
                   TilePixels<T>& pixels) const {
    const Span rows = rows_of(block);
    const int64_t top = row * kOutputs - s_.pad_top, left = tile * kOutputs - s_.pad_left;
    for (int64_t i = 0; i < kSide; ++i) {
      const int64_t y = top + i;
      const bool inside = y >= rows.begin && y < rows.end;
      const T* const line = memory.pixels.data() + ((y - rows.begin) * s_.width + left) * p_.depth;
      for (int64_t j = 0; j < kSide; ++j) {
        const bool exists = inside && left + j >= 0 && left + j < s_.width;
        pixels[i * kSide + j] = exists ? line + j * p_.depth : memory.outside.data();
      }
    }
  }

  // Of the outputs of a tile that are asked for, and those between them in a row, to [row][column][output channel].
  void sum_directly(const TilePixels<T>& pixels, uint32_t which, Span channels, T* sums, T* tile) const {
    for (int64_t i = 0; i < kPoints; ++i) std::copy_n(pixels[i], p_.depth, tile + i * p_.depth);
    Contraction<T> t{};
    t.a_stride = p_.depth;
    t.b_vector_stride = t.c_vector_stride = t.last_lanes = kWidth;
    t.steps = p_.direct_steps.data(), t.step_count = static_cast<int64_t>(p_.direct_steps.size());
    t.c_stride = p_.channels;
    for (int row = 0; row < kOutputs; ++row, which >>= kOutputs) {
      const uint32_t columns = which & ((1U << kOutputs) - 1);
      if (columns == 0) continue;
      const int first = std::countr_zero(columns), count = std::bit_width(columns) - first;
      const int64_t vectors = best_tile_vectors<S>(count, (channels.end - channels.begin) / kWidth);
      for (int64_t o = channels.begin; o < channels.end; o += vectors * kWidth) {
        t.a = tile + (row * kSide + first) * p_.depth;
        t.b = weights_.taps().data() + o, t.init = weights_.taps().bias() + o;
        t.c = sums + (row * kOutputs + first) * p_.channels + o;
        const int64_t left = (channels.end - o) / kWidth;
        ContractTiles<S>::run(t, count, static_cast<int>(std::min(vectors, left)), Partial::kNone);
      }
    }
  }

  // The products of the tiles of a block, and their results.
  template <bool kArgmax>
  void multiply(const Block& block, Memory& memory) const {
    const int64_t tiles = block.images * block.rows * p_.tile_columns;
    for (int64_t first = block.channels.begin; first < block.channels.end; first += p_.block_channels()) {
      Contraction<T> t{};
      t.a_stride = p_.depth;
      t.b_vector_stride = t.c_vector_stride = t.last_lanes = kWidth;
      t.steps = p_.steps.data(), t.step_count = static_cast<int64_t>(p_.steps.size());
      t.c_stride = p_.block_channels();
      for (int64_t point = 0; point < kPoints; ++point) {
        t.a = memory.values.data() + point * p_.value_step();
        t.b = weights_.points(first) + point * p_.weight_step();
        t.c = memory.products.data() + point * p_.product_step();
        // Only this point is added to all results with the factor 1.
        t.init = point == kSide + 1 ? weights_.taps().bias() + first : weights_.taps().init(0);
        ContractTiles<S>::run_blocks(t, tiles, p_.tile_vectors);
      }
      for (int64_t i = 0; i < block.images; ++i) {
        for (int64_t row = 0; row < block.rows; ++row) {
          for (int64_t tile = 0; tile < p_.tile_columns; ++tile) {
            const int64_t index = index_of(block, i, row, tile);
            const uint32_t refused = memory.refused[index];
            const T* const direct = memory.direct_of(p_, index) + first;
            const auto to = output_of(block, i, row, tile, memory);
            const T* const products = memory.products.data() + index * p_.block_channels();
            for (int64_t o = 0; o < p_.block_channels(); o += kWidth) {
              auto results = TileResults<S>::of_products(products + o, p_.product_step());
              if (refused != 0) results.replace(refused, direct + o, p_.channels);
              write<kArgmax>(results, to, first + o);
            }
          }
        }
      }
    }
  }

  // After the pool.
  int64_t result_rows(const Block& block) const {
    return std::min(block.rows * p_.out_side(), p_.out_rows() - block.row * p_.out_side());
  }
  TileOutput<T> output_of(const Block& block, int64_t image, int64_t row, int64_t tile,
                          Memory& memory) const {
    const int64_t side = p_.out_side(), row_step = p_.out_columns() * p_.channels;
    const int64_t place = (image * result_rows(block) + row * side) * row_step + tile * side * p_.channels;
    return {memory.results.data() + place,  memory.argmax + place, result_rows(block) - row * side,
            p_.out_columns() - tile * side, p_.channels,           row_step};
  }

  template <bool kArgmax>
  [[gnu::always_inline]] void write(const TileResults<S>& results, const TileOutput<T>& to,
                                    int64_t channel) const {
    p_.pooled ? pool_tile<S, kArgmax>(results, to, channel) : write_tile<S>(results, to, channel);
  }

  template <bool kArgmax>
  void write_planes(const Block& block, int64_t image, T* output, uint8_t* argmax,
                    const Memory& memory) const {
    const int64_t pixels = result_rows(block) * p_.out_columns(), first = block.channels.begin;
    const int64_t channels = std::min(block.channels.end, s_.out_channels) - first;
    const int64_t from = image * pixels * p_.channels + first;
    const int64_t to = ((block.image + image) * s_.out_channels + first) * p_.out_pixels() +
                       block.row * p_.out_side() * p_.out_columns();
    transpose<S>(memory.results.data() + from, p_.channels, output + to, p_.out_pixels(), pixels, channels);
    if constexpr (kArgmax) {
      write_argmax<S>(memory.argmax + from, p_.channels, channels, pixels, argmax + to, p_.out_pixels());
    }
  }

  const Plan p_;
  const Conv2dShape& s_ = p_.shape;
  NestedWinogradWeights<S> weights_;
};

}  // namespace lenet_ext::cpu
