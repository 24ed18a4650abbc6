// The engine behind conv2d's forward and input gradient:
//
//   out[n, o, y, x] = bias[o] + sum over (c, tap) of  in[n, c, y * stride_h + tap.y, x * stride_w + tap.x] * w[o, c, tap]
//
// per group, where pixels outside of the input are zero. Each task takes a block of output rows of one image and one
// group: it packs the input window that the block reads (unless the kernel can read the tensor itself), then runs the
// contract microkernel over it with one of two register layouts:
//
//   lanes = channels   vectors of packed weights, one broadcast input value per pixel: for 16 and more channels
//   lanes = pixels     vectors of neighbouring pixels, one broadcast weight per channel: for few channels. The pixels
//                      are those of the flat window, row after row, so lanes are also full where rows are short; the
//                      few at the end of each row that belong to no output are computed and dropped.
#pragma once

#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/contract.h"
#include "cpu/image.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

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
  std::vector<Tap> taps;
  // The computed outputs: rows x columns of them, at (top + i * step_h, left + j * step_w) of the output tensor.
  int64_t rows, columns, top, left, step_h, step_w;
  int64_t weight_group_stride, weight_out_stride, weight_in_stride;

  int64_t depth() const { return in_channels * static_cast<int64_t>(taps.size()); }
};

template <class S, class Stored>
class Correlator {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;
  static constexpr bool kStoredIsComputed = std::is_same_v<T, Stored>;

 public:
  Correlator(const Correlation& p, const Stored* input, const Stored* weight, const Stored* bias, Stored* output)
      : p_(p), input_(input), output_(output), bias_(p.groups * p.out_channels) {
    for (const Tap& tap : p.taps) {
      min_y_ = std::min(min_y_, tap.y), max_y_ = std::max(max_y_, tap.y);
      min_x_ = std::min(min_x_, tap.x), max_x_ = std::max(max_x_, tap.x);
    }
    if (p.taps.empty()) min_y_ = max_y_ = min_x_ = max_x_ = 0;
    choose_tiles();
    choose_rows();
    make_steps();
    pack_weights(weight);
    const int64_t bias_count = p.groups * p.out_channels;
    if (bias == nullptr) {
      std::fill_n(bias_.data(), bias_count, T(0));
    } else {
      copy_row<S>(bias, bias_.data(), bias_count);
    }
  }

  void run() const {
    const int64_t row_blocks = (p_.rows + block_rows_ - 1) / block_rows_;
    const double cost = block_cost(block_rows_);
    parallel_for(p_.batch * p_.groups * row_blocks, static_cast<int64_t>(cost), [&](int64_t begin, int64_t end) {
      Scratch<T> window(direct_ ? 0 : window_size_ + kMaxVectors * kWidth), block(block_size_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i % row_blocks * block_rows_, image = i / row_blocks;
        run_block(image / p_.groups, image % p_.groups, row, std::min(block_rows_, p_.rows - row), window, block);
      }
    });
  }

 private:
  int64_t window_height(int64_t rows) const { return (rows - 1) * p_.stride_h + max_y_ - min_y_ + 1; }
  int64_t window_width() const { return (p_.columns - 1) * p_.stride_w + max_x_ - min_x_ + 1; }
  PlanarLayout layout(int64_t rows) const {
    return {window_height(rows), window_width(), p_.stride_h, p_.stride_w};
  }
  static int64_t vectors(int64_t lanes) { return (lanes + kWidth - 1) / kWidth; }

  // The layout with the fewest estimated cycles, and its tile.
  void choose_tiles() {
    const int64_t channel_vectors = vectors(p_.out_channels);
    const int channel_tile = best_tile_vectors<S>(p_.columns, channel_vectors);
    const double channel_cost =
        static_cast<double>(p_.rows) * tiled_cost<S>(p_.columns, channel_vectors, channel_tile);
    const int64_t pitch = layout(p_.rows).columns;
    const int64_t pixel_vectors = vectors((p_.rows - 1) * pitch + p_.columns);
    const int pixel_tile = best_tile_vectors<S>(p_.out_channels, pixel_vectors);
    const double pixel_cost = tiled_cost<S>(p_.out_channels, pixel_vectors, pixel_tile);
    // What it costs besides to bring the windows and the results into the layout, per step of the contraction.
    const double depth = static_cast<double>(std::max<int64_t>(p_.depth(), 1));
    const double outputs = static_cast<double>(p_.rows * p_.columns * p_.out_channels) / kWidth;
    const double inputs = static_cast<double>(p_.in_height * p_.in_width * p_.in_channels) / kWidth;
    constexpr double kTransposeCycles = 6;  // per vector
    const bool planar = p_.format == Format::kContiguous;
    const double channel_extra = planar ? kTransposeCycles * outputs / depth : 0;
    const double pixel_extra = planar ? 0 : kTransposeCycles * (outputs + inputs) / depth;
    lanes_are_channels_ = channel_cost + channel_extra < pixel_cost + pixel_extra;
    tile_vectors_ = lanes_are_channels_ ? channel_tile : pixel_tile;
    step_cost_ = lanes_are_channels_ ? channel_cost : pixel_cost;
    const int64_t most = max_rows<S>(tile_vectors_);
    const int64_t channel_tiles = (p_.out_channels + most - 1) / most;
    channel_block_ = lanes_are_channels_
                         ? tile_vectors_ * kWidth
                         : (p_.out_channels + channel_tiles - 1) / std::max<int64_t>(channel_tiles, 1);
  }

  double block_cost(int64_t rows) const {
    const double share = static_cast<double>(rows) / static_cast<double>(std::max<int64_t>(p_.rows, 1));
    return share * (step_cost_ * static_cast<double>(p_.depth()) + 200);
  }

  // Rows per task: few enough for the window to stay in the second-level cache, and for several tasks where
  // there are few images. Depends on sizes only; the results do not depend on it.
  void choose_rows() {
    constexpr int64_t kWindowBytes = 256 * 1024, kTasks = 8;
    constexpr double kLeastCycles = 50'000;
    block_rows_ = std::max<int64_t>(p_.rows, 1);
    const auto too_large = [&](int64_t rows) {
      return p_.in_channels * window_height(rows) * window_width() * int64_t{sizeof(T)} > kWindowBytes;
    };
    const auto too_few = [&](int64_t rows) {
      return p_.batch * p_.groups * ((p_.rows + rows - 1) / rows) < kTasks && block_cost(rows) > kLeastCycles;
    };
    while (block_rows_ > 1 && (too_large(block_rows_) || too_few(block_rows_))) block_rows_ = (block_rows_ + 1) / 2;
  }

  void make_steps() {
    const bool inside_image = min_y_ >= 0 && min_x_ >= 0 &&
                              (p_.rows - 1) * p_.stride_h + max_y_ < p_.in_height &&
                              (p_.columns - 1) * p_.stride_w + max_x_ < p_.in_width;
    const int64_t all_channels = p_.groups * p_.in_channels;
    const bool small = all_channels * p_.in_height * p_.in_width <= std::numeric_limits<int32_t>::max();
    window_is_planar_ = !lanes_are_channels_ || p_.format == Format::kContiguous;
    const bool unit_stride = p_.stride_h == 1 && p_.stride_w == 1;
    direct_ = kStoredIsComputed && inside_image && small &&
              (window_is_planar_ ? p_.format == Format::kContiguous && unit_stride : true);

    const PlanarLayout planar = layout(block_rows_);
    Image<const Stored> image = input_image(0, 0);
    const auto input_offset = [&](int64_t c, const Tap& tap) {
      const int64_t y = tap.y - min_y_, x = tap.x - min_x_;
      if (direct_) return c * image.channel_stride + y * image.row_stride + x * image.pixel_stride;
      if (window_is_planar_) return planar.offset(c, y, x);
      return (y * window_width() + x) * p_.in_channels + c;
    };
    if (direct_) {
      pixel_step_ = p_.stride_w * image.pixel_stride, row_step_ = p_.stride_h * image.row_stride;
    } else if (window_is_planar_) {
      pixel_step_ = 1, row_step_ = planar.columns;
      window_size_ = p_.in_channels * planar.plane();
    } else {
      pixel_step_ = p_.stride_w * p_.in_channels, row_step_ = p_.stride_h * window_width() * p_.in_channels;
      window_size_ = p_.in_channels * window_height(block_rows_) * window_width();
    }
    // Lanes are channels: [pixel][channel_block_]; lanes are pixels: [channel][flat pixels, whole tiles].
    flat_pitch_ = (vectors((block_rows_ - 1) * row_step_ + p_.columns) + kMaxVectors) * kWidth;
    block_size_ = lanes_are_channels_ ? block_rows_ * p_.columns * channel_block_ : channel_block_ * flat_pitch_;

    constexpr int64_t kLargestOffset = std::numeric_limits<int32_t>::max();
    if (window_size_ > kLargestOffset || p_.depth() > kLargestOffset / channel_block_) {
      fail("conv2d: one row of outputs reads a window of more than 2^31 elements");
    }
    steps_.reserve(p_.depth());
    for (int64_t c = 0; c < p_.in_channels; ++c) {
      for (const Tap& tap : p_.taps) {
        const auto in = static_cast<int32_t>(input_offset(c, tap));
        const auto weight = static_cast<int32_t>(static_cast<int64_t>(steps_.size()) * channel_block_);
        steps_.push_back(lanes_are_channels_ ? Step{in, weight} : Step{weight, in});
      }
    }
  }

  // Per group and block of channel_block_ output channels: [step][channel]. Where the block is wider than the channels
  // left, the rest is zero.
  void pack_weights(const Stored* weight) {
    const int64_t blocks = (p_.out_channels + channel_block_ - 1) / std::max<int64_t>(channel_block_, 1);
    group_size_ = blocks * p_.depth() * channel_block_;
    weights_ = std::make_unique<Scratch<T>>(p_.groups * group_size_);
    if (p_.depth() == 0) return;
    const auto tap_count = static_cast<int64_t>(p_.taps.size());
    const bool all_in_order = tap_count == p_.weight_in_stride;  // the steps lie one after the other in `weight`
    parallel_for(p_.groups * blocks, 4 * p_.depth() * tile_vectors_, [&](int64_t begin, int64_t end) {
      Scratch<T> taps(largest_tap() * channel_block_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / blocks, first = i % blocks * channel_block_;
        const int64_t count = std::min(channel_block_, p_.out_channels - first);
        T* to = weights_->data() + i * p_.depth() * channel_block_;
        if (count < channel_block_) std::fill_n(to, p_.depth() * channel_block_, T(0));
        const Stored* from = weight + group * p_.weight_group_stride + first * p_.weight_out_stride;
        if (all_in_order) {
          transpose<S>(from, p_.weight_out_stride, to, channel_block_, count, p_.depth());
          continue;
        }
        for (int64_t c = 0; c < p_.in_channels; ++c, from += p_.weight_in_stride) {
          if (p_.weight_out_stride > 1) {
            transpose<S>(from, p_.weight_out_stride, taps.data(), channel_block_, count, largest_tap());
          } else {
            copy_row<S>(from, taps.data(), count);
          }
          for (const Tap& tap : p_.taps) {
            copy_row<S>(taps.data() + tap.weight * channel_block_, to, count);
            to += channel_block_;
          }
        }
      }
    });
  }
  int64_t largest_tap() const { return p_.taps.empty() ? 0 : p_.taps.back().weight + 1; }

  Image<const Stored> input_image(int64_t n, int64_t group) const {
    return image_of(input_, p_.format, p_.groups * p_.in_channels, p_.in_height, p_.in_width, n,
                    group * p_.in_channels, p_.in_channels);
  }

  void run_block(int64_t n, int64_t group, int64_t row, int64_t rows, Scratch<T>& window_memory,
                 Scratch<T>& block) const {
    const Image<const Stored> image = input_image(n, group);
    const Window window{row * p_.stride_h + min_y_, min_x_, window_height(rows), window_width()};
    const T* source = window_memory.data();
    if constexpr (kStoredIsComputed) {
      if (direct_) source = image.at(0, window.top, window.left);
    }
    if (!direct_ && window_is_planar_) {
      pack_planar<S>(image, window, layout(block_rows_), window_memory.data());
    } else if (!direct_) {
      pack_channels_last<S>(image, window, window_memory.data());
    }
    for (int64_t first = 0; first < p_.out_channels; first += channel_block_) {
      const int64_t channels = std::min(channel_block_, p_.out_channels - first);
      const T* weights = weights_->data() + group * group_size_ + first * p_.depth();
      const T* bias = bias_.data() + group * p_.out_channels + first;
      const Image<Stored> out = image_of(output_, p_.format, p_.groups * p_.out_channels, p_.out_height, p_.out_width,
                                         n, group * p_.out_channels + first, channels);
      if (lanes_are_channels_) {
        channels_as_lanes(source, weights, bias, row, rows, out, block.data());
      } else {
        pixels_as_lanes(source, weights, bias, row, rows, out, block.data());
      }
    }
  }

  void channels_as_lanes(const T* source, const T* weights, const T* bias, int64_t row, int64_t rows,
                         const Image<Stored>& out, T* block) const {
    T* target = block;
    int64_t target_pixel = channel_block_, target_row = p_.columns * channel_block_;
    bool in_place = false;
    if constexpr (kStoredIsComputed) {
      if (out.channel_stride == 1) {
        target = out.at(0, p_.top + row * p_.step_h, p_.left);
        target_pixel = p_.step_w * out.pixel_stride, target_row = p_.step_h * out.row_stride;
        in_place = true;
      }
    }
    const int64_t lanes = out.channels;
    const auto last_lanes = static_cast<int>(lanes - (vectors(lanes) - 1) * kWidth);
    Contraction<T> t{source, pixel_step_, weights, steps_.data(), p_.depth(),
                     bias,   false,       0,       target,        target_pixel, last_lanes};
    const bool one_run = row_step_ == p_.columns * pixel_step_ && target_row == p_.columns * target_pixel;
    for (int64_t r = 0; r < (one_run ? 1 : rows); ++r) {
      t.a = source + r * row_step_;
      t.c = target + r * target_row;
      ContractTiles<S>::run(t, one_run ? rows * p_.columns : p_.columns, static_cast<int>(vectors(lanes)),
                            last_lanes < kWidth);
    }
    if (!in_place) {
      unpack<S>(block, 1, target_row, target_pixel, out, p_.top + row * p_.step_h, p_.left, p_.step_h, p_.step_w, rows,
                p_.columns);
    }
  }

  void pixels_as_lanes(const T* source, const T* weights, const T* bias, int64_t row, int64_t rows,
                       const Image<Stored>& out, T* block) const {
    T* target = block;
    int64_t target_stride = flat_pitch_;
    bool in_place = false;
    if constexpr (kStoredIsComputed) {
      // No output-less pixels at the ends of the rows: the flat run is the output itself.
      if (out.planar() && row_step_ == p_.columns && p_.columns == p_.out_width && p_.step_h == 1 && p_.step_w == 1) {
        target = out.at(0, p_.top + row, 0);
        target_stride = out.channel_stride;
        in_place = true;
      }
    }
    const int64_t pixels = (rows - 1) * row_step_ + p_.columns;
    Contraction<T> t{weights, 1, source, steps_.data(), p_.depth(), bias, true, 1, target, target_stride, kWidth};
    for (int64_t first = 0; first < pixels; first += tile_vectors_ * kWidth) {
      const int64_t left = pixels - first;
      const int count = static_cast<int>(std::min<int64_t>(tile_vectors_, vectors(left)));
      t.b = source + first;
      t.c = target + first;
      t.last_lanes = static_cast<int>(std::min<int64_t>(kWidth, left - (count - 1) * kWidth));
      ContractTiles<S>::run(t, out.channels, count, t.last_lanes < kWidth);
    }
    if (!in_place) {
      unpack<S>(block, flat_pitch_, row_step_, 1, out, p_.top + row * p_.step_h, p_.left, p_.step_h, p_.step_w, rows,
                p_.columns);
    }
  }

  const Correlation& p_;
  const Stored* input_;
  Stored* output_;
  Scratch<T> bias_;
  std::unique_ptr<Scratch<T>> weights_;
  std::vector<Step> steps_;
  int64_t min_y_ = std::numeric_limits<int64_t>::max(), max_y_ = std::numeric_limits<int64_t>::min();
  int64_t min_x_ = min_y_, max_x_ = max_y_;
  bool lanes_are_channels_, window_is_planar_, direct_;
  int tile_vectors_;
  double step_cost_;
  int64_t channel_block_, block_rows_, group_size_;
  int64_t pixel_step_, row_step_, window_size_ = 0, flat_pitch_, block_size_;
};

}  // namespace lenet_ext::cpu
