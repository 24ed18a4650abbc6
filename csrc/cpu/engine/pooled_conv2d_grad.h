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
    find_places();
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
    std::fill_n(weights_.data(), s_.out_channels * channel_size(), T(0));
    for_each_weight([&](int64_t index, int64_t place) { weights_[place] = weight[index]; });
  }

  // Partial sums: as the weights, [output channel][run][kernel row][vectors], then a bias sum per channel.
  int64_t sums_size() const { return s_.out_channels * (channel_size() + 1); }

  // Working memory of a thread: two padded images, channels last. Whole vectors are touched beyond a run.
  struct Memory {
    explicit Memory(const PooledConv2dGradient& g, bool input_grad)
        : input(g.frame_size()),
          grad_input(input_grad ? g.frame_size() : 0),
          factors(g.windows_ + kWidth),
          offsets(g.windows_ + kWidth) {}
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
    if (grad_input != nullptr) std::fill_n(memory.grad_input.data(), frame_size(), T(0));
    for (int64_t o = 0; o < s_.out_channels; ++o, grads += windows_, argmax += windows_) {
      const PatchList<T> list = list_patches(grads, argmax, memory);
      if (sums != nullptr) {
        sums[s_.out_channels * channel_size() + o] += sum(list);
        over_runs<false>(list, memory.input.data(), sums + o * channel_size());
      }
      if (grad_input != nullptr) {
        over_runs<true>(list, memory.grad_input.data(), const_cast<T*>(weights_.data()) + o * channel_size());
      }
    }
    if (grad_input == nullptr) return;
    const T* inner = memory.grad_input.data() + s_.pad_top * row_pitch_ + s_.pad_left * s_.in_channels;
    unpack<S>(inner, 1, row_pitch_, s_.in_channels, image(grad_input), 0, 0, 1, 1, s_.height, s_.width);
  }

  // Of what write() would give, without the rearrangement: what lies behind a run does not count.
  double squared_norm(const T* sums, bool with_bias) const {
    const int64_t rows = runs_ * s_.kernel_height, taps = run_taps_ * s_.in_channels;
    double total =
        with_bias ? sum_of_squares<S>(sums + s_.out_channels * channel_size(), s_.out_channels) : 0;
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      typename S::Vector squares[2] = {S::zero(), S::zero()};
      for (int64_t row = 0; row < rows; ++row, sums += vectors_ * kWidth) {
        for (int64_t k = 0; k < vectors_; ++k) {
          const auto n = static_cast<int>(std::min<int64_t>(kWidth, taps - k * kWidth));
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
    for_each_weight([&](int64_t index, int64_t place) { grad_weight[index] = sums[place]; });
    return sums + s_.out_channels * channel_size();
  }

 private:
  int64_t channel_size() const { return runs_ * s_.kernel_height * vectors_ * kWidth; }
  int64_t frame_size() const { return frame_.height * row_pitch_ + vectors_ * kWidth; }
  // Of the patch that begins at an output pixel.
  int64_t offset(int64_t row, int64_t column) const {
    return row * s_.stride_h * row_pitch_ + column * s_.stride_w * s_.in_channels;
  }

  // body(index in (O, C, KH, KW), place in [output channel][run][kernel row][vectors])
  template <class Body>
  void for_each_weight(const Body& body) const {
    const auto count = static_cast<int64_t>(places_.size());
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      for (int64_t i = 0; i < count; ++i) body(o * count + i, o * channel_size() + places_[i]);
    }
  }
  void find_places() {
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < s_.kernel_width; ++x) {
          const int64_t row = x / run_taps_ * s_.kernel_height + y;
          places_.push_back(
              static_cast<int32_t>(row * vectors_ * kWidth + x % run_taps_ * s_.in_channels + c));
        }
      }
    }
  }

  // The windows of a channel whose gradient is not zero. Without branches, which nobody could predict. Argmax
  // comes from the caller: none leads out of the image.
  PatchList<T> list_patches(const T* grads, const uint8_t* argmax, Memory& memory) const {
    T* const factors = memory.factors.data();
    int32_t* const offsets = memory.offsets.data();
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

  template <bool kScatter>
  void over_runs(const PatchList<T>& list, T* image, T* values) const {
    const int64_t row_size = vectors_ * kWidth;
    for (int64_t run = 0; run < runs_; ++run, values += s_.kernel_height * row_size) {
      const PatchBlock<T> block{image + run * s_.dilation_w * s_.in_channels, s_.dilation_h * row_pitch_,
                                values, row_size};
      PatchKernels<S>::template run<kScatter>(list, block, s_.kernel_height, vectors_);
    }
  }

  const Conv2dShape s_;
  const Window frame_;
  // A run: the taps that are neighbours in memory, a kernel row or with dilation a single tap.
  const int64_t windows_, row_pitch_, run_taps_, runs_, vectors_;
  const bool few_taps_, input_grad_;
  const int32_t last_offset_;
  std::vector<int32_t> places_;   // of the weights of an output channel: a table, since divisions take long
  std::vector<int32_t> corners_;  // of the pooling windows
  std::array<int32_t, 256> offsets_{};  // of a tap of the pool from its corner
  Scratch<T> weights_;
};

}  // namespace lenet_ext::cpu
