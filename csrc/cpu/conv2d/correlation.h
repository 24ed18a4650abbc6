// The problem that conv2d's forward and its input gradient have in common, per group:
//
//   out[n, o, y, x] = bias[o] +
//       sum over (c, tap) of  in[n, c, y * stride_h + tap.y, x * stride_w + tap.x] * w[o, c, tap]
//
// where pixels outside of the input are zero; and the plan of how an instruction set computes it.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/conv2d/image.h"
#include "cpu/microkernels/contract.h"

namespace lenet_ext::cpu {

struct Tap {
  int64_t y, x;
  int64_t weight;  // offset of its weight within the taps of a channel
};

struct Correlation {
  int64_t batch, groups, in_channels, out_channels;  // channels per group
  int64_t in_height, in_width, out_height, out_width;
  Format format;  // of input and output
  int64_t stride_h, stride_w;
  std::vector<Tap> taps;  // row by row
  // The computed outputs: rows x columns of them, at (top + i * step_h, left + j * step_w) of the output
  // tensor.
  int64_t rows, columns, top, left, step_h, step_w;
  int64_t weight_group_stride, weight_out_stride, weight_in_stride;

  int64_t depth() const { return in_channels * static_cast<int64_t>(taps.size()); }
};

// The terms (channel, tap) of one row of taps; in `weight` order of the packed weights.
struct TapRow {
  int64_t y, first, last;
  int64_t first_step, last_step;
};

// How a Correlation is computed: by tasks of a block of output rows of one image and group, with one of two
// register layouts of the contract microkernel over a packed input window:
//
// - Lanes are channels: vectors of packed weights, one broadcast input value per pixel; for 16 and more channels.
// - Lanes are pixels: vectors of neighbouring pixels, one broadcast weight per channel; for few channels. Either the
//   pixels of the flat window, row after row, so that lanes are full also where rows are short (the few at the end of
//   each row that belong to no output are computed and dropped); or one vector per row, which can leave out the rows
//   of taps that meet only padding.
template <class S>
struct CorrelationPlan {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;

  const Correlation& problem;
  bool lanes_are_channels = false, row_tiles = false;
  int tile_vectors;
  int64_t channel_block;  // output channels packed together
  int64_t block_rows;     // output rows per task
  double step_cost;       // estimated cycles of a step over all rows
  bool window_is_planar;
  bool direct;  // the kernel reads the tensor itself
  int64_t min_y, max_y, min_x, max_x;
  int64_t pixel_step, row_step;     // from output pixel to output pixel in the window, in elements
  int64_t window_size = 0;          // elements
  int64_t block_pitch, block_size;  // of the results of a task: from row to row; elements in all
  int taps_per_step = 1;            // the taps of a row in one step (contract.h)
  std::vector<Step> steps;
  std::vector<TapRow> tap_rows;

  CorrelationPlan(const Correlation& p, bool stored_is_computed) : problem(p) {
    min_y = min_x = p.taps.empty() ? 0 : std::numeric_limits<int64_t>::max();
    max_y = max_x = p.taps.empty() ? 0 : std::numeric_limits<int64_t>::min();
    for (const Tap& tap : p.taps) {
      min_y = std::min(min_y, tap.y), max_y = std::max(max_y, tap.y);
      min_x = std::min(min_x, tap.x), max_x = std::max(max_x, tap.x);
      if (tap_rows.empty() || tap_rows.back().y != tap.y) {
        const int64_t first = tap_rows.empty() ? 0 : tap_rows.back().last;
        tap_rows.push_back({tap.y, first, first, 0, 0});
      }
      tap_rows.back().last += p.in_channels;
      tap_rows.back().first_step = tap_rows.back().first, tap_rows.back().last_step = tap_rows.back().last;
    }
    const bool inside_image = min_y >= 0 && min_x >= 0 && (p.rows - 1) * p.stride_h + max_y < p.in_height &&
                              (p.columns - 1) * p.stride_w + max_x < p.in_width;
    const bool small =
        p.groups * p.in_channels * p.in_height * p.in_width <= std::numeric_limits<int32_t>::max();
    const bool unit_stride = p.stride_h == 1 && p.stride_w == 1;
    const bool readable = stored_is_computed && inside_image && small;
    const bool planes_readable = readable && unit_stride && p.format == Format::kContiguous;
    choose_tiles(!planes_readable);
    window_is_planar = !lanes_are_channels || p.format == Format::kContiguous;
    direct = lanes_are_channels ? readable : planes_readable;
    choose_rows();
    make_steps();
  }

  static int64_t vectors(int64_t lanes) { return (lanes + kWidth - 1) / kWidth; }
  int64_t window_height(int64_t rows) const { return (rows - 1) * problem.stride_h + max_y - min_y + 1; }
  int64_t window_width() const { return (problem.columns - 1) * problem.stride_w + max_x - min_x + 1; }
  // Vectors of pixels must be neighbours; a pixel that is broadcast may lie anywhere.
  PlanarLayout layout(int64_t rows) const {
    if (lanes_are_channels) return {window_height(rows), window_width(), 1, 1};
    return {window_height(rows), window_width(), problem.stride_h, problem.stride_w};
  }
  double task_cost(int64_t rows) const {
    const double share = static_cast<double>(rows) / static_cast<double>(std::max<int64_t>(problem.rows, 1));
    return share * (step_cost * static_cast<double>(problem.depth()) + 200);
  }

  // The steps [begin, end) whose taps meet a pixel of the input at one of the output rows [first, last).
  Range steps_of_rows(int64_t first, int64_t last) const {
    Range range{0, 0};
    for (const TapRow& row : tap_rows) {
      if ((last - 1) * problem.stride_h + row.y < 0 || first * problem.stride_h + row.y >= problem.in_height)
        continue;
      if (range.begin == range.end) range.begin = row.first_step;
      range.end = row.last_step;
    }
    return range;
  }

 private:
  // The layout with the fewest estimated cycles, and its tile.
  void choose_tiles(bool may_tile_rows) {
    const Correlation& p = problem;
    const int64_t channel_vectors = vectors(p.out_channels);
    const int channel_tile = best_tile_vectors<S>(p.columns, channel_vectors);
    const double channel_cost =
        static_cast<double>(p.rows) * tiled_cost<S>(p.columns, channel_vectors, channel_tile);
    const int64_t pixel_vectors = vectors((p.rows - 1) * layout(p.rows).columns + p.columns);
    int pixel_tile = best_tile_vectors<S>(p.out_channels, pixel_vectors);
    double pixel_cost = tiled_cost<S>(p.out_channels, pixel_vectors, pixel_tile);
    const double depth = static_cast<double>(std::max<int64_t>(p.depth(), 1));
    if (may_tile_rows && p.rows > 1) {
      const int tile = row_tile();
      double cost = 0;
      for (int64_t row = 0; row < p.rows; row += tile) {
        const int64_t count = std::min<int64_t>(tile, p.rows - row);
        const Range range = steps_of_rows(row, row + count);
        cost += static_cast<double>(range.end - range.begin) / depth *
                tiled_cost<S>(p.out_channels, count, static_cast<int>(count));
      }
      cost *= static_cast<double>(vectors(p.columns));
      if (cost < pixel_cost) pixel_cost = cost, pixel_tile = tile, row_tiles = true;
    }
    // What it costs besides to bring the windows and the results into the layout, per step of the
    // contraction.
    const double outputs = static_cast<double>(p.rows * p.columns * p.out_channels) / kWidth;
    const double inputs = static_cast<double>(p.in_height * p.in_width * p.in_channels) / kWidth;
    constexpr double kTransposeCycles = 6;  // per vector
    const bool planar = p.format == Format::kContiguous;
    const double channel_extra = planar ? kTransposeCycles * outputs / depth : 0;
    const double pixel_extra = planar ? 0 : kTransposeCycles * (outputs + inputs) / depth;
    lanes_are_channels = channel_cost + channel_extra < pixel_cost + pixel_extra;
    row_tiles = row_tiles && !lanes_are_channels;
    tile_vectors = lanes_are_channels ? channel_tile : pixel_tile;
    step_cost = lanes_are_channels ? channel_cost : pixel_cost;
    const int64_t most = max_rows<S>(tile_vectors), tiles = (p.out_channels + most - 1) / most;
    channel_block = lanes_are_channels ? tile_vectors * kWidth : (p.out_channels + tiles - 1) / tiles;
  }

  // The fewest rows per tile that keep the arithmetic units busy: fewer rows leave out more padding.
  int row_tile() const {
    constexpr int64_t kEnoughAccumulators = 10;
    int vectors = 1;
    while (vectors < kMaxVectors && max_rows<S>(vectors + 1) > 0 &&
           std::min<int64_t>(problem.out_channels, max_rows<S>(vectors)) * vectors < kEnoughAccumulators) {
      ++vectors;
    }
    return vectors;
  }

  // Rows per task: few enough for the window to stay in the second-level cache, and for several tasks where
  // there are few images. Depends on sizes only; the results do not depend on it.
  void choose_rows() {
    constexpr int64_t kWindowBytes = 256 * 1024, kTasks = 8;
    constexpr double kLeastCycles = 50'000;
    const Correlation& p = problem;
    block_rows = std::max<int64_t>(p.rows, 1);
    const auto too_large = [&](int64_t rows) {
      return p.in_channels * window_height(rows) * window_width() * int64_t{sizeof(T)} > kWindowBytes;
    };
    const auto too_few = [&](int64_t rows) {
      return p.batch * p.groups * ((p.rows + rows - 1) / rows) < kTasks && task_cost(rows) > kLeastCycles;
    };
    while (block_rows > 1 && (too_large(block_rows) || too_few(block_rows)))
      block_rows = (block_rows + 1) / 2;
  }

  void make_steps() {
    const Correlation& p = problem;
    const PlanarLayout planar = layout(block_rows);
    const bool planes = p.format == Format::kContiguous;
    const int64_t channel_stride = planes ? p.in_height * p.in_width : 1;
    const int64_t pixel_stride = planes ? 1 : p.groups * p.in_channels;
    if (direct) {
      pixel_step = p.stride_w * pixel_stride, row_step = p.stride_h * p.in_width * pixel_stride;
    } else if (window_is_planar) {
      pixel_step = p.stride_w / planar.stride_w, row_step = p.stride_h / planar.stride_h * planar.columns;
      window_size = p.in_channels * planar.plane();
    } else {
      pixel_step = p.stride_w * p.in_channels, row_step = p.stride_h * window_width() * p.in_channels;
      window_size = p.in_channels * window_height(block_rows) * window_width();
    }
    // Lanes are channels: [pixel][channel_block]; lanes are pixels: [channel][row][block_pitch].
    if (lanes_are_channels) {
      block_pitch = p.columns * channel_block;
      block_size = block_rows * block_pitch;
    } else {
      block_pitch = row_tiles ? vectors(p.columns) * kWidth : row_step;
      block_size = channel_block * pixel_block_stride();
    }
    constexpr int64_t kLargestOffset = std::numeric_limits<int32_t>::max();
    if (window_size > kLargestOffset || p.depth() > kLargestOffset / channel_block) {
      fail("conv2d: one row of outputs reads a window of more than 2^31 elements");
    }
    if (lanes_are_channels && window_is_planar && tile_vectors == 1) taps_per_step = taps_in_a_row();
    for (TapRow& row : tap_rows) {
      row.first_step = row.first / taps_per_step, row.last_step = row.last / taps_per_step;
    }
    steps.reserve(p.depth() / taps_per_step);
    size_t tap = 0;
    int64_t term = 0;
    for (const TapRow& row : tap_rows) {
      const size_t end = tap + (row.last - row.first) / std::max<int64_t>(p.in_channels, 1);
      for (int64_t c = 0; c < p.in_channels; ++c) {
        for (size_t i = tap; i < end; i += taps_per_step, term += taps_per_step) {
          const int64_t y = p.taps[i].y - min_y, x = p.taps[i].x - min_x;
          const int64_t in = direct             ? c * channel_stride + (y * p.in_width + x) * pixel_stride
                             : window_is_planar ? planar.offset(c, y, x)
                                                : (y * window_width() + x) * p.in_channels + c;
          const auto weight = static_cast<int32_t>(term * channel_block);
          steps.push_back(lanes_are_channels ? Step{static_cast<int32_t>(in), weight}
                                             : Step{weight, static_cast<int32_t>(in)});
        }
      }
      tap = end;
    }
  }

  // The length of the rows of taps if they are neighbours, each reading the pixel right of the one before,
  // and there are tiles for it; else 1.
  int taps_in_a_row() const {
    const auto& taps = problem.taps;
    const auto length = static_cast<int64_t>(taps.size() / std::max<size_t>(tap_rows.size(), 1));
    bool neighbours =
        pixel_step == 1 && problem.stride_w == 1 && ContractTiles<S>::has(static_cast<int>(length), 1);
    for (size_t i = 1; i < taps.size(); ++i) {
      neighbours = neighbours && (taps[i].y != taps[i - 1].y || taps[i].x == taps[i - 1].x + 1);
    }
    return neighbours ? static_cast<int>(length) : 1;
  }

 public:
  // From channel to channel of a task's results; whole tiles are stored, so there is room beyond the last
  // pixel.
  int64_t pixel_block_stride() const {
    return (vectors((block_rows - 1) * block_pitch + problem.columns) + kMaxVectors) * kWidth;
  }
};

}  // namespace lenet_ext::cpu
