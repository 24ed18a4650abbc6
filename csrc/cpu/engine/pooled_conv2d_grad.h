// The gradients of a convolution whose output went through a max-pool, and perhaps a relu.
//
// Only one position of each pooling window has a gradient, and none where the relu was closed. So instead of
// sums over all output pixels, each pooled gradient g that is left takes the patch of the input under its
// maximum:
//
//   grad_weight[o] += g * input_patch        grad_input_patch += g * weight[o]
//
// With the channels last, a kernel row of a patch is one run of kernel_width * channels values. Per output
// channel, the gradients and the offsets of their patches form a list (patches.h).
#pragma once

#include <vector>

#include "cpu/conv2d/image.h"
#include "cpu/microkernels/patches.h"
#include "cpu/microkernels/squares.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class PooledConv2dGradient {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;

 public:
  // Where this is the better way: few windows per pixel.
  static bool suits(const Conv2dShape& conv, const MaxPool2dShape& pool) {
    constexpr int64_t kLargestImage = int64_t{1} << 30;
    const int64_t windows = pool.out_height * pool.out_width, pixels = conv.out_height * conv.out_width;
    const int64_t height = conv.height + conv.pad_top + conv.pad_bottom;
    const int64_t width = conv.width + conv.pad_left + conv.pad_right;
    if (conv.kernel_height * conv.kernel_width >
        kLargestImage / std::max<int64_t>(2 * kWidth * conv.in_channels, 1)) {
      return false;
    }
    return conv.groups == 1 && pool.byte_argmax() && 2 * windows <= pixels && height < kLargestImage &&
           width < kLargestImage && height * width < kLargestImage / std::max<int64_t>(conv.in_channels, 1);
  }

  PooledConv2dGradient(const Conv2dShape& conv, const MaxPool2dShape& pool, bool input_grad)
      : s_(conv),
        frame_{-conv.pad_top, -conv.pad_left, conv.height + conv.pad_top + conv.pad_bottom,
               conv.width + conv.pad_left + conv.pad_right},
        windows_(pool.out_height * pool.out_width),
        row_pitch_(frame_.width * conv.in_channels),
        run_taps_(conv.dilation_w == 1 ? conv.kernel_width : 1),
        runs_(conv.kernel_width / run_taps_),
        vectors_((run_taps_ * conv.in_channels + kWidth - 1) / kWidth),
        few_taps_(pool.kernel_height * pool.kernel_width <= 16),
        input_grad_(input_grad),
        last_offset_(static_cast<int32_t>(offset(conv.out_height - 1, conv.out_width - 1))),
        weights_(input_grad ? conv.out_channels * channel_size() : 0) {
    // Lanes behind a run stay zero.
    if (input_grad) std::fill_n(weights_.data(), conv.out_channels * channel_size(), T(0));
    for (int64_t oh = 0; oh < pool.out_height; ++oh) {
      for (int64_t ow = 0; ow < pool.out_width; ++ow) {
        corners_.push_back(
            static_cast<int32_t>(offset(oh * pool.stride_h - pool.pad_h, ow * pool.stride_w - pool.pad_w)));
      }
    }
    for (int64_t tap = 0; tap < pool.kernel_height * pool.kernel_width; ++tap) {
      const int64_t kh = tap / pool.kernel_width, kw = tap % pool.kernel_width;
      offsets_[tap] = static_cast<int32_t>(offset(kh * pool.dilation_h, kw * pool.dilation_w));
    }
  }

  // weight: (O, C, KH, KW); needed for the input gradient only.
  void set_weight(const T* weight) {
    if (!input_grad_) return;
    Scratch<T> pixels(taps() * s_.in_channels);
    for (int64_t o = 0; o < s_.out_channels; ++o, weight += taps() * s_.in_channels) {
      transpose<S>(weight, taps(), pixels.data(), s_.in_channels, s_.in_channels, taps());
      for_each_row([&](int64_t pixel, int64_t row) {
        copy_row<S>(pixels.data() + pixel, weights_.data() + o * channel_size() + row, row_taps());
      });
    }
  }

  // Partial sums: as the weights, [output channel][run][kernel row][vectors], then a bias sum per channel.
  int64_t sums_size() const { return s_.out_channels * (channel_size() + 1); }

  // Working memory of a thread: padded images, channels last. Whole vectors are touched beyond a run. Two output
  // channels at once add to two images.
  struct Memory {
    explicit Memory(const PooledConv2dGradient& g, bool input_grad)
        : input(g.frame_size()),
          grad_input(input_grad ? (g.pairs() ? 2 : 1) * g.frame_size() : 0),
          factors(2 * (g.windows_ + kWidth)),
          offsets(2 * (g.windows_ + kWidth)) {}
    Scratch<T> input, grad_input, factors;
    Scratch<int32_t> offsets;
  };

  // One image. input: (C, H, W); grads and argmax: (O, pooled). sums are added to; grad_input (C, H, W) is
  // written; either may be null.
  void add(const T* input, const T* grads, const uint8_t* argmax, T* sums, T* grad_input,
           Memory& memory) const {
    const auto image = [&](auto* data) {
      return image_of(data, Format::kContiguous, s_.in_channels, s_.height, s_.width, 0, 0, s_.in_channels);
    };
    if (sums != nullptr) pack_channels_last<S>(image(input), frame_, memory.input.data());
    T* const padded = memory.grad_input.data();
    if (grad_input != nullptr) std::fill_n(padded, (pairs() ? 2 : 1) * frame_size(), T(0));
    int64_t o = 0;
    for (; pairs() && o + 2 <= s_.out_channels; o += 2) {
      add_channels<2>(o, grads, argmax, sums, grad_input != nullptr, memory);
    }
    for (; o < s_.out_channels; ++o) add_channels<1>(o, grads, argmax, sums, grad_input != nullptr, memory);
    if (grad_input == nullptr) return;
    if (pairs()) add_row<S>(padded + frame_size(), padded, frame_size());
    const T* inner = padded + s_.pad_top * row_pitch_ + s_.pad_left * s_.in_channels;
    unpack<S>(inner, 1, row_pitch_, s_.in_channels, image(grad_input), 0, 0, 1, 1, s_.height, s_.width);
  }

  // Of what write() would give, without the rearrangement: what lies behind a run does not count.
  double squared_norm(const T* sums, bool with_bias) const {
    const int64_t rows = runs_ * s_.kernel_height;
    double total =
        with_bias ? sum_of_squares<S>(sums + s_.out_channels * channel_size(), s_.out_channels) : 0;
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      typename S::Vector squares[2] = {S::zero(), S::zero()};
      for (int64_t row = 0; row < rows; ++row, sums += vectors_ * kWidth) {
        for (int64_t k = 0; k < vectors_; ++k) {
          const auto n = static_cast<int>(std::min<int64_t>(kWidth, row_taps() - k * kWidth));
          const auto v = S::load_partial(sums + k * kWidth, n);
          squares[k % 2] = S::fma(v, v, squares[k % 2]);
        }
      }
      total += static_cast<double>(S::reduce_add(S::add(squares[0], squares[1])));
    }
    return total;
  }

  // Writes grad_weight (O, C, KH, KW); returns grad_bias (O).
  const T* write(const T* sums, T* grad_weight) const {
    Scratch<T> pixels(taps() * s_.in_channels);
    for (int64_t o = 0; o < s_.out_channels; ++o, sums += channel_size()) {
      for_each_row(
          [&](int64_t pixel, int64_t row) { copy_row<S>(sums + row, pixels.data() + pixel, row_taps()); });
      transpose<S>(pixels.data(), s_.in_channels, grad_weight, taps(), taps(), s_.in_channels);
      grad_weight += taps() * s_.in_channels;
    }
    return sums;
  }

 private:
  int64_t channel_size() const { return runs_ * s_.kernel_height * vectors_ * kWidth; }
  int64_t frame_size() const { return frame_.height * row_pitch_ + vectors_ * kWidth; }
  // Of the patch that begins at an output pixel.
  int64_t offset(int64_t row, int64_t column) const {
    return row * s_.stride_h * row_pitch_ + column * s_.stride_w * s_.in_channels;
  }

  int64_t taps() const { return s_.kernel_height * s_.kernel_width; }
  int64_t row_taps() const { return run_taps_ * s_.in_channels; }
  // body(place in (KH, KW, C), place in [run][kernel row][vectors]) for the rows of a patch.
  template <class Body>
  void for_each_row(const Body& body) const {
    for (int64_t run = 0; run < runs_; ++run) {
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        body((y * s_.kernel_width + run * run_taps_) * s_.in_channels,
             (run * s_.kernel_height + y) * vectors_ * kWidth);
      }
    }
  }

  bool pairs() const { return PatchKernels<S>::takes_two(s_.kernel_height, vectors_); }

  // Output channels [o, o + Lists).
  template <int Lists>
  void add_channels(int64_t o, const T* grads, const uint8_t* argmax, T* sums, bool of_input,
                    Memory& memory) const {
    std::array<PatchList<T>, Lists> lists;
    for (int l = 0; l < Lists; ++l) {
      const int64_t place = (o + l) * windows_, room = l * (windows_ + kWidth);
      lists[l] = list_patches(grads + place, argmax + place, memory.factors.data() + room,
                              memory.offsets.data() + room);
      if (sums == nullptr) continue;
      sums[s_.out_channels * channel_size() + o + l] += sum(lists[l]);
      for (int64_t run = 0; run < runs_; ++run) {
        const auto block = block_of(run, memory.input.data(), sums + (o + l) * channel_size());
        PatchKernels<S>::gather(lists[l], block, s_.kernel_height, vectors_);
      }
    }
    if (!of_input) return;
    T* const weights = const_cast<T*>(weights_.data());  // which are read alone
    for (int64_t run = 0; run < runs_; ++run) {
      std::array<PatchBlock<T>, Lists> blocks;
      for (int l = 0; l < Lists; ++l) {
        blocks[l] =
            block_of(run, memory.grad_input.data() + l * frame_size(), weights + (o + l) * channel_size());
      }
      PatchKernels<S>::template scatter<Lists>(lists, blocks, s_.kernel_height, vectors_);
    }
  }
  // values: of an output channel.
  PatchBlock<T> block_of(int64_t run, T* image, T* values) const {
    const int64_t row_size = vectors_ * kWidth;
    return {image + run * s_.dilation_w * s_.in_channels, s_.dilation_h * row_pitch_,
            values + run * s_.kernel_height * row_size, row_size};
  }

  // The windows of a channel whose gradient is not zero. Without branches, which nobody could predict. Argmax
  // comes from the caller: none leads out of the image.
  PatchList<T> list_patches(const T* grads, const uint8_t* argmax, T* factors, int32_t* offsets) const {
    int64_t count = 0, i = 0;
    if constexpr (requires { &S::compress_nonzero; }) {
      for (; few_taps_ && i < windows_; i += kWidth) {
        const int n = static_cast<int>(std::min<int64_t>(kWidth, windows_ - i));
        count += S::compress_nonzero(grads + i, corners_.data() + i, argmax + i, n, offsets_.data(),
                                     last_offset_, factors + count, offsets + count);
      }
    }
    for (; i < windows_; ++i) {
      factors[count] = grads[i];
      offsets[count] = std::clamp(corners_[i] + offsets_[argmax[i]], 0, last_offset_);
      count += grads[i] != T(0);
    }
    return {count, factors, offsets};
  }

  T sum(const PatchList<T>& list) const {
    auto total = S::zero();
    int64_t k = 0;
    for (; k + kWidth <= list.count; k += kWidth) total = S::add(total, S::load(list.factors + k));
    return S::reduce_add(S::add(total, S::load_partial(list.factors + k, static_cast<int>(list.count - k))));
  }

  const Conv2dShape s_;
  const Window frame_;
  // A run: the taps that are neighbours in memory, a kernel row or with dilation a single tap.
  const int64_t windows_, row_pitch_, run_taps_, runs_, vectors_;
  const bool few_taps_, input_grad_;
  const int32_t last_offset_;
  std::vector<int32_t> corners_;        // of the pooling windows
  std::array<int32_t, 256> offsets_{};  // of a tap of the pool from its corner
  Scratch<T> weights_;
};

}  // namespace lenet_ext::cpu
