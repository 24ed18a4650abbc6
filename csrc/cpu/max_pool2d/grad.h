// The gradient of max_pool2d: each window's gradient goes to the position of its maximum.
//
// Windows that tile the image (stride == kernel, no padding, no dilation) own their elements: each is written
// once, as the gradient or as zero. All others are summed in scan order, in the compute type. An argmax that
// is no position of its window, or lies in the padding, is passed over: it comes from the caller and is not
// to be trusted.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/max_pool2d/grad_contiguous.h"

namespace lenet_ext::cpu {

// One output row (all channels) of windows that tile the image: the lanes are channels. kKernel: the kernel
// size if known, else 0.
template <class S, int kKernel, class Stored, class Index>
void max_pool2d_grad_tiles(const GradRange<Stored>& range, int64_t oh, const Stored* grad_output,
                           const Index* argmax, Stored* image) {
  const MaxPool2dShape& s = range.shape;
  const Span owned = owned_rows(s, oh);
  const int64_t kernel_rows = std::min(s.kernel_height, owned.end - owned.begin),
                row_size = s.width * s.channels;
  const int64_t kernel_width = kKernel > 0 ? kKernel : s.kernel_width;
  const int64_t covered = std::min(s.out_width * kernel_width, s.width);
  const int64_t reach = (kernel_width - 1) * s.channels + S::width;
  for (int64_t kh = 0; kh < kernel_rows; ++kh) {
    Stored* row = image + (owned.begin + kh) * row_size;
    for (int64_t ow = 0; ow < s.out_width; ++ow) {
      const int64_t columns = std::min(kernel_width, s.width - ow * kernel_width);
      for (int64_t c = 0; c < s.channels; c += S::width) {
        const Stored* grads = grad_output + ow * s.channels + c;
        Stored* out = row + ow * kernel_width * s.channels + c;
        const auto block = [&](auto full, int64_t columns, int n) {
          const typename S::Vector grad = load_first<S, full>(grads, n);
          const typename S::Vector best = load_argmax<S>(argmax + ow * s.channels + c, full ? S::width : n);
          for (int64_t kw = 0; kw < columns; ++kw) {
            const auto tap = S::broadcast(static_cast<typename S::Scalar>(kh * kernel_width + kw));
            store_first<S, full>(out + kw * s.channels, S::select(S::equal(best, tap), grad, S::zero()), n);
          }
        };
        // Beyond the last of several vectors of channels lie channels of the next pixel, written before.
        const bool free_behind = c + S::width <= s.channels || c == 0;
        if (free_behind && columns == kernel_width && range.grad_output_end - grads >= S::width &&
            range.grad_input_end - out >= reach) {
          block(std::true_type{}, kernel_width, S::width);
        } else {
          block(std::false_type{}, columns, static_cast<int>(std::min<int64_t>(S::width, s.channels - c)));
        }
      }
    }
    std::fill(row + covered * s.channels, row + row_size, Stored{});
  }
  std::fill(image + (owned.begin + kernel_rows) * row_size, image + owned.end * row_size, Stored{});
}

// n channels of one image, from `grad_output`, `argmax` and into `image`, which all begin at the first of
// these channels; sums: height * width vectors.
template <class S, class Stored, class Index>
void max_pool2d_grad_channels(const MaxPool2dShape& s, const Stored* grad_output, const Index* argmax, int n,
                              Stored* image, typename S::Scalar* sums) {
  constexpr int width = S::width;
  std::fill(sums, sums + s.height * s.width * width, typename S::Scalar(0));
  for (int64_t oh = 0; oh < s.out_height; ++oh) {
    const int64_t top = oh * s.stride_h - s.pad_h;
    const Span rows = taps_inside(top, s.kernel_height, s.dilation_h, s.height);
    for (int64_t ow = 0; ow < s.out_width; ++ow) {
      const int64_t left = ow * s.stride_w - s.pad_w, offset = (oh * s.out_width + ow) * s.channels;
      const Span columns = taps_inside(left, s.kernel_width, s.dilation_w, s.width);
      const typename S::Vector grad = S::load_partial(grad_output + offset, n);
      const typename S::Vector best = load_argmax<S>(argmax + offset, n);
      for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
        for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
          const auto tap = static_cast<typename S::Scalar>(kh * s.kernel_width + kw);
          typename S::Scalar* p =
              sums + ((top + kh * s.dilation_h) * s.width + left + kw * s.dilation_w) * width;
          S::store(p, S::add(S::load(p), S::select(S::equal(best, S::broadcast(tap)), grad, S::zero())));
        }
      }
    }
  }
  for (int64_t i = 0; i < s.height * s.width; ++i)
    S::store_partial(image + i * s.channels, S::load(sums + i * width), n);
}

template <class S, class Stored, class Index>
void max_pool2d_grad_channels_last(const MaxPool2dShape& s, const Stored* grad_output, const Index* argmax,
                                   Stored* grad_input) {
  const int64_t in_image = s.height * s.width * s.channels, out_row = s.out_width * s.channels;
  const int64_t vectors = (s.channels + S::width - 1) / S::width, row_cost = window_cost(s, 1);
  if (windows_tile_image(s)) {
    const auto kernel = s.kernel_width == 2 ? max_pool2d_grad_tiles<S, 2, Stored, Index>
                                            : max_pool2d_grad_tiles<S, 0, Stored, Index>;
    parallel_for(s.batch * s.out_height, vectors * row_cost, [&](int64_t first, int64_t last) {
      const int64_t last_row = owned_rows(s, (last - 1) % s.out_height).end;
      const GradRange<Stored> range{
          s, grad_output + s.batch * s.out_height * out_row,
          grad_input + (last - 1) / s.out_height * in_image + last_row * s.width * s.channels};
      for (int64_t item = first; item < last; ++item) {
        kernel(range, item % s.out_height, grad_output + item * out_row, argmax + item * out_row,
               grad_input + item / s.out_height * in_image);
      }
    });
    return;
  }
  // One item of work is one vector of channels of one image.
  parallel_for(s.batch * vectors, s.out_height * row_cost, [&](int64_t first, int64_t last) {
    std::vector<typename S::Scalar> sums(s.height * s.width * S::width);
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / vectors, c = item % vectors * S::width;
      const int64_t offset = image * s.out_height * out_row + c;
      const int n = static_cast<int>(std::min<int64_t>(S::width, s.channels - c));
      max_pool2d_grad_channels<S>(s, grad_output + offset, argmax + offset, n,
                                  grad_input + image * in_image + c, sums.data());
    }
  });
}

// Tensors dense in `format`; argmax as max_pool2d wrote them, or anything.
template <class S, class Stored>
void max_pool2d_input_grad(const MaxPool2dShape& s, Format format, const Stored* grad_output,
                           const void* argmax, Stored* grad_input) {
  with_argmax_type(s, argmax, [&](const auto* typed_argmax) {
    if (format == Format::kChannelsLast) {
      max_pool2d_grad_channels_last<S>(s, grad_output, typed_argmax, grad_input);
    } else {
      max_pool2d_grad_contiguous<S>(s, grad_output, typed_argmax, grad_input);
    }
  });
}

}  // namespace lenet_ext::cpu
