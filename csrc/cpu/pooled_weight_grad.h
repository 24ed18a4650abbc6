// The weight and bias gradient of a convolution whose output went through a max-pool.
//
// Only one position of each pooling window receives a gradient, so instead of a sum over all output pixels,
// each pooled gradient g takes the input patch under its maximum:
//
//   grad_weight[o] += g[o, window] * patch(position of the maximum of (o, window))
//
// With the input channels-last, a kernel row of a patch is one run of kernel_width * channels values. The
// contract microkernel sums the runs of all kernel rows at once: steps are the windows with a gradient that
// is not zero, its vectors are the kernel rows. Zeros are left out: after a relu these are about half.
#pragma once

#include <vector>

#include "cpu/contract.h"
#include "cpu/image.h"
#include "cpu/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class PooledWeightGradient {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;

 public:
  // Where this is the better way: few windows per pixel, and no more than a window of the input in the cache.
  static bool suits(const Conv2dShape& conv, const MaxPool2dShape& pool) {
    constexpr int64_t kLargestWindow = int64_t{1} << 30;
    const int64_t windows = pool.out_height * pool.out_width, pixels = conv.out_height * conv.out_width;
    return conv.groups == 1 && pool.byte_taps() && 2 * windows <= pixels &&
           (conv.height + conv.pad_top + conv.pad_bottom) * (conv.width + conv.pad_left + conv.pad_right) <
               kLargestWindow / std::max<int64_t>(conv.in_channels, 1);
  }

  PooledWeightGradient(const Conv2dShape& conv, const MaxPool2dShape& pool) : s_(conv), pool_(pool) {
    const int64_t channels = s_.in_channels;
    window_ = {-s_.pad_top, -s_.pad_left, s_.height + s_.pad_top + s_.pad_bottom,
               s_.width + s_.pad_left + s_.pad_right};
    // A run: the taps that are neighbours in memory, a kernel row or with dilation a single tap.
    run_taps_ = s_.dilation_w == 1 ? s_.kernel_width : 1;
    run_ = run_taps_ * channels;
    run_vectors_ = (run_ + kWidth - 1) / kWidth;
    row_pitch_ = window_.width * channels;
    for (int64_t oh = 0; oh < pool.out_height; ++oh) {
      for (int64_t ow = 0; ow < pool.out_width; ++ow) {
        corners_.push_back(static_cast<int32_t>(
            offset(oh * pool.stride_h - pool.pad_h, ow * pool.stride_w - pool.pad_w)));
      }
    }
    for (int64_t tap = 0; tap < pool.kernel_height * pool.kernel_width; ++tap) {
      const int64_t kh = tap / pool.kernel_width, kw = tap % pool.kernel_width;
      taps_[tap] = static_cast<int32_t>(offset(kh * pool.dilation_h, kw * pool.dilation_w));
    }
    last_offset_ = static_cast<int32_t>(offset(s_.out_height - 1, s_.out_width - 1));
  }

  // Partial sums: [output channel][kernel row][run][vectors of the run], then a bias sum per channel.
  int64_t sums_size() const { return s_.out_channels * (channel_sums() + 1); }
  // Elements of working memory for a packed window; whole vectors are read beyond its end.
  int64_t window_size() const { return window_.height * row_pitch_ + kWidth; }

  // Adds one image. input: (C, H, W); grads: (O, pooled), zero where nothing flows back.
  void add(const T* input, const T* grads, const uint8_t* taps, T* window, Step* steps, T* sums) const {
    const int64_t windows = static_cast<int64_t>(corners_.size());
    pack_channels_last<S>(image_of(input, Format::kContiguous, s_.in_channels, s_.height, s_.width, 0, 0,
                                   s_.in_channels),
                          window_, window);
    const int64_t runs = s_.kernel_width / run_taps_;
    T* bias_sums = sums + s_.out_channels * channel_sums();
    for (int64_t o = 0; o < s_.out_channels; ++o, grads += windows, taps += windows) {
      T* to = sums + o * channel_sums();
      int64_t count = 0;
      T bias_sum = T(0);
      for (int64_t i = 0; i < windows; ++i) {
        bias_sum += grads[i];
        // Taps come from the caller: none leads out of the window.
        const int32_t offset = std::clamp(corners_[i] + taps_[taps[i]], 0, last_offset_);
        steps[count] = {static_cast<int32_t>(i), offset};
        count += grads[i] != T(0);
      }
      bias_sums[o] += bias_sum;
      for (int64_t run = 0; run < runs; ++run) {
        for (int64_t v = 0; v < run_vectors_; ++v, to += s_.kernel_height * kWidth) {
          const T* source = window + run * s_.dilation_w * s_.in_channels + v * kWidth;
          add_rows(grads, source, steps, count, to);
        }
      }
    }
  }

  // grad_weight (O, C, KH, KW); grad_bias (O) may be null.
  void write(const T* sums, T* grad_weight, T* grad_bias) const {
    const int64_t taps = s_.kernel_height * s_.kernel_width, channels = s_.in_channels;
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < s_.kernel_width; ++x) {
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t run = x / run_taps_, lane = x % run_taps_ * channels + c;
            const int64_t vector = (run * run_vectors_ + lane / kWidth) * s_.kernel_height + y;
            grad_weight[(o * channels + c) * taps + y * s_.kernel_width + x] =
                sums[o * channel_sums() + vector * kWidth + lane % kWidth];
          }
        }
      }
    }
    const T* bias_sums = sums + s_.out_channels * channel_sums();
    if (grad_bias != nullptr) std::copy_n(bias_sums, s_.out_channels, grad_bias);
  }

 private:
  int64_t channel_sums() const {
    return s_.kernel_height * (s_.kernel_width / run_taps_) * run_vectors_ * kWidth;
  }
  // Of the patch that begins at an output pixel.
  int64_t offset(int64_t row, int64_t column) const {
    return row * s_.stride_h * row_pitch_ + column * s_.stride_w * s_.in_channels;
  }

  // One vector of every kernel row.
  void add_rows(const T* grads, const T* source, const Step* steps, int64_t count, T* to) const {
    const int64_t pitch = s_.dilation_h * row_pitch_;
    for (int64_t y = 0; y < s_.kernel_height; y += kRows) {
      const int64_t rows = std::min(kRows, s_.kernel_height - y);
      T* sums = to + y * kWidth;
      ContractTiles<S>::run({grads, 1, source + y * pitch, pitch, steps, count, sums, false, 0, sums, 0,
                             kWidth, kWidth},
                            1, static_cast<int>(rows), Partial::kNone);
    }
  }

  static constexpr int64_t kRows = max_rows<S>(kMaxVectors) > 0 ? kMaxVectors : 4;

  const Conv2dShape& s_;
  const MaxPool2dShape& pool_;
  Window window_;
  int64_t run_taps_, run_, run_vectors_, row_pitch_;
  std::vector<int32_t> corners_;  // of the pooling windows
  std::array<int32_t, 256> taps_{};
  int32_t last_offset_;
};

}  // namespace lenet_ext::cpu
