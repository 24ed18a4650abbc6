// Runs a Correlation by its plan (correlation.h): packs the weights once, then each task packs the input
// window that its block of output rows reads, unless the kernel can read the tensor itself, and contracts
// both.
#pragma once

#include <memory>
#include <type_traits>

#include "cpu/conv2d/correlation.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class Correlator {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;
  static constexpr bool kStoredIsComputed = std::is_same_v<T, Stored>;

 public:
  // Weights are to be set before the first run.
  explicit Correlator(const Correlation& p)
      : p_(p),
        plan_(p_, kStoredIsComputed),
        bias_(p.groups * p.out_channels),
        blocks_((p.out_channels + plan_.channel_block - 1) / plan_.channel_block),
        weights_(p.groups * blocks_ * p.depth() * plan_.channel_block) {}

  // The plan refers to the problem inside of this object.
  Correlator(const Correlator&) = delete;
  Correlator& operator=(const Correlator&) = delete;

  // bias may be null.
  void set_weights(const Stored* weight, const Stored* bias) {
    if (bias == nullptr) {
      std::fill_n(bias_.data(), p_.groups * p_.out_channels, T(0));
    } else {
      copy_row<S>(bias, bias_.data(), p_.groups * p_.out_channels);
    }
    if (p_.depth() > 0) pack_weights(weight);
  }

  // The first `images` images of dense tensors, at most as many as the problem has.
  void run(const Stored* input, Stored* output, int64_t images) const {
    const int64_t rows = plan_.block_rows, row_blocks = (p_.rows + rows - 1) / rows;
    const int64_t count = images * p_.groups * row_blocks;
    parallel_for(count, static_cast<int64_t>(plan_.task_cost(rows)), [&](int64_t begin, int64_t end) {
      Scratch<T> window(plan_.direct ? 0 : plan_.window_size + kMaxVectors * kWidth), block(plan_.block_size);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i % row_blocks * rows, image = i / row_blocks;
        if (row_blocks == 1 && i + 1 < end) {
          prefetch(input_image(input, (i + 1) / p_.groups, (i + 1) % p_.groups).data,
                   p_.in_channels * p_.in_height * p_.in_width * int64_t{sizeof(Stored)});
        }
        run_task(input, output, image / p_.groups, image % p_.groups, row, std::min(rows, p_.rows - row),
                 window.data(), block.data());
      }
    });
  }

 private:
  // Per group and block of channels: [step][channel]. Where the block is wider than the channels left, the
  // rest is zero.
  void pack_weights(const Stored* weight) {
    const int64_t block = plan_.channel_block, depth = p_.depth();
    const int64_t taps = static_cast<int64_t>(p_.taps.size()), all_taps = p_.taps.back().weight + 1;
    // All taps of all channels lie one after the other: one transposition for the whole block.
    const bool in_order = taps == p_.weight_in_stride;
    parallel_for(p_.groups * blocks_, 4 * depth * plan_.tile_vectors, [&](int64_t begin, int64_t end) {
      Scratch<T> unordered(block * (in_order ? depth : all_taps));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % blocks_ * block, count = std::min(block, p_.out_channels - first);
        T* const to = weights_.data() + i * depth * block;
        if (count < block) std::fill_n(to, depth * block, T(0));
        const Stored* from = weight + i / blocks_ * p_.weight_group_stride + first * p_.weight_out_stride;
        if (in_order) {
          const bool sorted = plan_.tap_rows.size() == 1;
          transpose<S>(from, p_.weight_out_stride, sorted ? to : unordered.data(), block, count, depth);
          if (sorted) continue;
        }
        for (int64_t c = 0; c < p_.in_channels; ++c) {
          if (!in_order && p_.weight_out_stride == 1) {
            copy_row<S>(from + c * p_.weight_in_stride, unordered.data(), count);
          } else if (!in_order) {
            transpose<S>(from + c * p_.weight_in_stride, p_.weight_out_stride, unordered.data(), block, count,
                         all_taps);
          }
          sort_taps(unordered.data() + (in_order ? c * taps * block : 0), c, count, to);
        }
      }
    });
  }

  // The steps of a channel, from the order of `weight` to that of the plan: by rows of taps, then channels.
  void sort_taps(const T* from, int64_t channel, int64_t count, T* to) const {
    const Tap* tap = p_.taps.data();
    for (const TapRow& row : plan_.tap_rows) {
      const int64_t row_taps = (row.last - row.first) / p_.in_channels;
      T* destination = to + (row.first + channel * row_taps) * plan_.channel_block;
      for (int64_t i = 0; i < row_taps; ++i, ++tap, destination += plan_.channel_block) {
        copy_row<S>(from + tap->weight * plan_.channel_block, destination, count);
      }
    }
  }

  Image<const Stored> input_image(const Stored* input, int64_t n, int64_t group) const {
    return image_of(input, p_.format, p_.groups * p_.in_channels, p_.in_height, p_.in_width, n,
                    group * p_.in_channels, p_.in_channels);
  }

  void run_task(const Stored* input, Stored* output, int64_t n, int64_t group, int64_t row, int64_t rows,
                T* window_memory, T* block) const {
    const Image<const Stored> image = input_image(input, n, group);
    const Window window{row * p_.stride_h + plan_.min_y, plan_.min_x, plan_.window_height(rows),
                        plan_.window_width()};
    const T* source = window_memory;
    if constexpr (kStoredIsComputed) {
      if (plan_.direct) source = image.at(0, window.top, window.left);
    }
    if (!plan_.direct && plan_.window_is_planar) {
      pack_planar<S>(image, window, plan_.layout(plan_.block_rows), window_memory);
    } else if (!plan_.direct) {
      pack_channels_last<S>(image, window, window_memory);
    }
    for (int64_t i = 0; i < blocks_; ++i) {
      const int64_t first = i * plan_.channel_block,
                    channels = std::min(plan_.channel_block, p_.out_channels - first);
      const T* weights = weights_.data() + (group * blocks_ + i) * p_.depth() * plan_.channel_block;
      const T* bias = bias_.data() + group * p_.out_channels + first;
      const Image<Stored> out = image_of(output, p_.format, p_.groups * p_.out_channels, p_.out_height,
                                         p_.out_width, n, group * p_.out_channels + first, channels);
      if (plan_.lanes_are_channels) {
        channels_as_lanes(source, weights, bias, row, rows, out, block);
      } else if (plan_.row_tiles) {
        rows_as_vectors(source, weights, bias, row, rows, out, block);
      } else {
        flat_pixels_as_lanes(source, weights, bias, row, rows, out, block);
      }
    }
  }

  void select_steps(Contraction<T>& t, int64_t first_row, int64_t last_row) const {
    const Range range = plan_.steps_of_rows(first_row, last_row);
    t.steps = plan_.steps.data() + range.begin;
    t.step_count = range.end - range.begin;
  }

  void write_block(const T* block, int64_t channel_stride, int64_t pixel_stride, const Image<Stored>& out,
                   int64_t row, int64_t rows) const {
    unpack<S>(block, channel_stride, plan_.block_pitch, pixel_stride, out, p_.top + row * p_.step_h, p_.left,
              p_.step_h, p_.step_w, rows, p_.columns);
  }

  void channels_as_lanes(const T* source, const T* weights, const T* bias, int64_t row, int64_t rows,
                         const Image<Stored>& out, T* block) const {
    T* target = block;
    int64_t target_pixel = plan_.channel_block, target_row = plan_.block_pitch;
    bool in_place = false;
    if constexpr (kStoredIsComputed) {
      if (out.channel_stride == 1) {
        target = out.at(0, p_.top + row * p_.step_h, p_.left);
        target_pixel = p_.step_w * out.pixel_stride, target_row = p_.step_h * out.row_stride;
        in_place = true;
      }
    }
    const int64_t vectors = plan_.vectors(out.channels);
    const auto last_lanes = static_cast<int>(out.channels - (vectors - 1) * kWidth);
    const auto step_count = static_cast<int64_t>(plan_.steps.size());
    Contraction<T> t{.a = source,
                     .a_stride = plan_.pixel_step,
                     .b = weights,
                     .b_vector_stride = kWidth,
                     .steps = plan_.steps.data(),
                     .step_count = step_count,
                     .init = bias,
                     .init_is_per_row = false,
                     .init_stride = 0,
                     .c = target,
                     .c_stride = target_pixel,
                     .c_vector_stride = kWidth,
                     .last_lanes = last_lanes,
                     .b_tap_stride = plan_.channel_block};
    // Where rows follow each other without a gap, in the window and in the result, they are one long row.
    const bool one_row = plan_.direct && plan_.row_step == p_.columns * plan_.pixel_step &&
                         target_row == p_.columns * target_pixel;
    const int64_t runs = one_row ? 1 : rows, run_pixels = one_row ? rows * p_.columns : p_.columns;
    for (int64_t r = 0; r < runs; ++r) {
      t.a = source + r * plan_.row_step;
      t.c = target + r * target_row;
      if (!plan_.direct) select_steps(t, row + r, row + r + 1);
      ContractTiles<S>::run(t, run_pixels, static_cast<int>(vectors),
                            last_lanes < kWidth ? Partial::kLast : Partial::kNone, plan_.taps_per_step);
    }
    if (!in_place) write_block(block, 1, target_pixel, out, row, rows);
  }

  void flat_pixels_as_lanes(const T* source, const T* weights, const T* bias, int64_t row, int64_t rows,
                            const Image<Stored>& out, T* block) const {
    T* target = block;
    int64_t channel_stride = plan_.pixel_block_stride();
    bool in_place = false;
    if constexpr (kStoredIsComputed) {
      // No output-less pixels at the ends of the rows: the flat run is the output itself.
      if (out.planar() && plan_.row_step == p_.columns && p_.columns == p_.out_width && p_.step_h == 1 &&
          p_.step_w == 1) {
        target = out.at(0, p_.top + row, 0);
        channel_stride = out.channel_stride;
        in_place = true;
      }
    }
    const int64_t pixels = (rows - 1) * plan_.row_step + p_.columns;
    Contraction<T> t{.a = weights,
                     .a_stride = 1,
                     .b = source,
                     .b_vector_stride = kWidth,
                     .steps = plan_.steps.data(),
                     .step_count = p_.depth(),
                     .init = bias,
                     .init_is_per_row = true,
                     .init_stride = 1,
                     .c = target,
                     .c_stride = channel_stride,
                     .c_vector_stride = kWidth,
                     .last_lanes = kWidth};
    for (int64_t first = 0; first < pixels; first += plan_.tile_vectors * kWidth) {
      const int64_t left = pixels - first;
      const int count = static_cast<int>(std::min<int64_t>(plan_.tile_vectors, plan_.vectors(left)));
      t.b = source + first;
      t.c = target + first;
      t.last_lanes = static_cast<int>(std::min<int64_t>(kWidth, left - (count - 1) * kWidth));
      ContractTiles<S>::run(t, out.channels, count, t.last_lanes < kWidth ? Partial::kLast : Partial::kNone);
    }
    if (!in_place) write_block(block, channel_stride, 1, out, row, rows);
  }

  void rows_as_vectors(const T* source, const T* weights, const T* bias, int64_t row, int64_t rows,
                       const Image<Stored>& out, T* block) const {
    T* target = block;
    int64_t channel_stride = plan_.pixel_block_stride(), target_row = plan_.block_pitch;
    bool in_place = false;
    if constexpr (kStoredIsComputed) {
      if (out.planar() && p_.step_h == 1 && p_.step_w == 1) {
        target = out.at(0, p_.top + row, p_.left);
        channel_stride = out.channel_stride, target_row = out.row_stride;
        in_place = true;
      }
    }
    Contraction<T> t{.a = weights,
                     .a_stride = 1,
                     .b = source,
                     .b_vector_stride = plan_.row_step,
                     .steps = nullptr,
                     .step_count = 0,
                     .init = bias,
                     .init_is_per_row = true,
                     .init_stride = 1,
                     .c = target,
                     .c_stride = channel_stride,
                     .c_vector_stride = target_row,
                     .last_lanes = kWidth};
    for (int64_t r = 0; r < rows; r += plan_.tile_vectors) {
      const int64_t count = std::min<int64_t>(plan_.tile_vectors, rows - r);
      select_steps(t, row + r, row + r + count);
      for (int64_t x = 0; x < p_.columns; x += kWidth) {
        t.b = source + r * plan_.row_step + x;
        t.c = target + r * target_row + x;
        t.last_lanes = static_cast<int>(std::min<int64_t>(kWidth, p_.columns - x));
        ContractTiles<S>::run(t, out.channels, static_cast<int>(count),
                              t.last_lanes < kWidth ? Partial::kAll : Partial::kNone);
      }
    }
    if (!in_place) write_block(block, channel_stride, 1, out, row, rows);
  }

  const Correlation p_;
  const CorrelationPlan<S> plan_;
  Scratch<T> bias_;
  int64_t blocks_;
  Scratch<T> weights_;
};

}  // namespace lenet_ext::cpu
