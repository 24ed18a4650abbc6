// conv2d's input gradient for few input channels and stride 1, by patches: each pixel of grad_output, times
// the weights, is spread over a patch of the input, one row of which is
//
//   patch[n, y, x][lane] = sum over ky, o of  grad_output[n, o, y + pad - ky * dilation, x] * w[o, ky][lane]
//
// with the kernel's columns and the input channels together as lanes (LeNet's second convolution: 5 * 6 of
// 32). A row of grad_input, channels-last, is the sum of the patches of its row, each `channels` lanes right
// of the one before. Unlike a correlation this multiplies nothing by padding, and rows shorter than a vector
// waste no lanes.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/conv2d/image.h"
#include "cpu/microkernels/contract.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class PatchGradient {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;
  static constexpr bool kStoredIsComputed = std::is_same_v<T, Stored>;

 public:
  // Whether clearly more of the lanes do useful work than in a correlation, whose lanes are pixels.
  static bool suits(const Conv2dShape& s) {
    constexpr int64_t kLeastDepth = 32;  // below, adding up the patches is too much of the work
    constexpr double kClearly = 1.1;
    if (s.stride_h != 1 || s.stride_w != 1 || s.dilation_w != 1 || s.group_in() >= kWidth) return false;
    if (s.kernel_height * s.group_out() < kLeastDepth || s.kernel_width > s.width || s.height < 1)
      return false;
    const int64_t lanes = s.kernel_width * s.group_in();
    const int64_t largest_offset =
        std::max(s.out_channels * (s.out_height + s.kernel_height * s.dilation_h) * s.out_width,
                 s.kernel_height * s.group_out() * vectors(lanes) * kWidth);
    if (largest_offset > std::numeric_limits<int32_t>::max()) return false;
    const auto share = [](int64_t useful, int64_t all) {
      return static_cast<double>(useful) / static_cast<double>(all);
    };
    const double by_rows = share(s.out_width, vectors(s.width) * kWidth);
    const double by_pixels =
        share(s.out_height * s.out_width, s.height * (s.width + s.kernel_width - 1) + kWidth);
    return share(lanes, vectors(lanes) * kWidth) > kClearly * std::max(by_rows, by_pixels);
  }

  // The weight is to be set before the first run.
  PatchGradient(const Conv2dShape& shape, Format format)
      : s_(shape),
        format_(format),
        channels_(shape.group_in()),
        lanes_(shape.kernel_width * channels_),
        lane_pitch_(vectors(lanes_) * kWidth),
        weights_(shape.groups * shape.kernel_height * shape.group_out() * lane_pitch_) {
    const Image<const Stored> image = grad_image(nullptr, 0, 0);
    const bool packed = !kStoredIsComputed;
    pixel_step_ = packed ? 1 : image.pixel_stride;
    row_step_ = packed ? s_.out_width : image.row_stride;
    const int64_t channel_step = packed ? s_.out_height * s_.out_width : image.channel_stride;
    for (int64_t ky = 0; ky < s_.kernel_height; ++ky) {
      for (int64_t o = 0; o < s_.group_out(); ++o) {
        steps_.push_back({static_cast<int32_t>(o * channel_step - ky * s_.dilation_h * row_step_),
                          static_cast<int32_t>(static_cast<int64_t>(steps_.size()) * lane_pitch_)});
      }
    }
  }

  // weight: (O, C, KH, KW)
  void set_weight(const Stored* weight) {
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      const int64_t group = o / s_.group_out(), first = group * s_.kernel_height * s_.group_out();
      for (int64_t c = 0; c < channels_; ++c) {
        for (int64_t ky = 0; ky < s_.kernel_height; ++ky, weight += s_.kernel_width) {
          T* to = weights_.data() + (first + ky * s_.group_out() + o % s_.group_out()) * lane_pitch_ + c;
          copy_strided(weight, 1, to, channels_, s_.kernel_width);
        }
      }
    }
  }

  // The first `batch` images of dense tensors, at most as many as the shape has.
  void run(const Stored* grad_output, Stored* grad_input, int64_t batch) const {
    constexpr int64_t kTasks = 8, kBlockBytes = 64 * 1024;
    int64_t block_rows = std::max<int64_t>(kBlockBytes / int64_t{sizeof(T)} / (s_.width * channels_), 1);
    const int64_t images = batch * s_.groups;
    if (images < kTasks) block_rows = std::min(block_rows, (s_.height + kTasks - 1) / kTasks);
    block_rows = std::min(block_rows, s_.height);
    const int64_t blocks = (s_.height + block_rows - 1) / block_rows;
    const int64_t cost = block_rows * static_cast<int64_t>(steps_.size()) * s_.out_width * vectors(lanes_);
    parallel_for(images * blocks, cost / 2, [&](int64_t begin, int64_t end) {
      Scratch<T> packed(kStoredIsComputed ? 0 : s_.group_out() * s_.out_height * s_.out_width);
      Scratch<T> patches(kWidth + s_.out_width * patch_pitch());
      std::fill_n(patches.data(), kWidth + s_.out_width * patch_pitch(), T(0));
      Scratch<T> block(block_rows * s_.width * channels_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / blocks / s_.groups, group = i / blocks % s_.groups,
                      top = i % blocks * block_rows;
        const int64_t rows = std::min(block_rows, s_.height - top);
        const T* grads = packed.data();
        const Image<const Stored> from = grad_image(grad_output, n, group);
        if constexpr (kStoredIsComputed) {
          grads = from.data;
        } else {
          pack_planar<S>(from, {0, 0, s_.out_height, s_.out_width}, {s_.out_height, s_.out_width, 1, 1},
                         packed.data());
        }
        const Image<Stored> to = image_of(grad_input, format_, s_.in_channels, s_.height, s_.width, n,
                                          group * channels_, channels_);
        T* target = block.data();
        bool in_place = false;
        if constexpr (kStoredIsComputed) {
          in_place = to.pixel_stride == channels_;
          if (in_place) target = to.at(0, top, 0);
        }
        for (int64_t y = 0; y < rows; ++y) {
          make_patches(grads, group, top + y, patches.data() + kWidth);
          add_patches(patches.data() + kWidth, target + y * s_.width * channels_);
        }
        if (in_place) continue;
        unpack<S>(block.data(), 1, s_.width * channels_, channels_, to, top, 0, 1, 1, rows, s_.width);
      }
    });
  }

 private:
  static int64_t vectors(int64_t lanes) { return (lanes + kWidth - 1) / kWidth; }
  // A vector of zeros lies before and after each patch.
  int64_t patch_pitch() const { return lane_pitch_ + kWidth; }
  Image<const Stored> grad_image(const Stored* grad_output, int64_t n, int64_t group) const {
    return image_of(grad_output, format_, s_.out_channels, s_.out_height, s_.out_width, n,
                    group * s_.group_out(), s_.group_out());
  }

  // The patches of input row y: sums over the rows of the kernel that reach it.
  void make_patches(const T* grads, int64_t group, int64_t y, T* patches) const {
    const int64_t bottom = y + s_.pad_top;
    const Range reach = inside(bottom - (s_.kernel_height - 1) * s_.dilation_h, s_.dilation_h, s_.out_height,
                               s_.kernel_height);
    const int64_t first = (s_.kernel_height - reach.end) * s_.group_out();
    const int64_t count = (reach.end - reach.begin) * s_.group_out();
    const T* const weights = weights_.data() + group * s_.kernel_height * s_.group_out() * lane_pitch_;
    const int64_t all = vectors(lanes_), tile = best_tile_vectors<S>(s_.out_width, all);
    for (int64_t v = 0; v < all; v += tile) {
      const auto count_v = static_cast<int>(std::min<int64_t>(tile, all - v));
      const auto last_lanes =
          static_cast<int>(std::min<int64_t>(kWidth, lanes_ - (v + count_v - 1) * kWidth));
      ContractTiles<S>::run({.a = grads + bottom * row_step_,
                             .a_stride = pixel_step_,
                             .b = weights + v * kWidth,
                             .b_vector_stride = kWidth,
                             .steps = steps_.data() + first,
                             .step_count = count,
                             .init = kZeros,
                             .init_is_per_row = true,
                             .init_stride = 0,
                             .c = patches + v * kWidth,
                             .c_stride = patch_pitch(),
                             .c_vector_stride = kWidth,
                             .last_lanes = last_lanes},
                            s_.out_width, count_v, last_lanes < kWidth ? Partial::kLast : Partial::kNone);
    }
  }

  // row[(x + kx - pad) * channels + c] = sum over x of  patches[x][kx * channels + c]
  void add_patches(const T* patches, T* row) const {
    const int64_t size = s_.width * channels_, pitch = patch_pitch();
    for (int64_t i = 0; i < size; i += kWidth) {
      // The patches with a lane in [i, i + kWidth).
      const int64_t shift = i + s_.pad_left * channels_;
      const int64_t first = std::max<int64_t>(shift - lanes_ + channels_, 0) / channels_;
      const int64_t last = std::min((shift + kWidth + channels_ - 1) / channels_, s_.out_width);
      auto sum = S::zero();
      for (int64_t x = first; x < last; ++x) {
        sum = S::add(sum, S::load(patches + x * pitch + shift - x * channels_));
      }
      if (i + kWidth <= size) {
        S::store(row + i, sum);
      } else {
        S::store_partial(row + i, sum, static_cast<int>(size - i));
      }
    }
  }

  static constexpr T kZeros[1] = {T(0)};

  const Conv2dShape s_;
  const Format format_;
  int64_t channels_, lanes_, lane_pitch_;
  int64_t pixel_step_, row_step_;
  Scratch<T> weights_;  // [group][kernel row][output channel][lane_pitch_]
  std::vector<Step> steps_;
};

}  // namespace lenet_ext::cpu
