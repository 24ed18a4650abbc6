// max_pool2d: the maximum of every window and, if asked for, its argmax, the tap kh * kernel_width + kw, with
// ATen's rules: start at -inf, a strictly greater value or a NaN wins, taps in scan order, padding never
// wins. Here channels_last, with channels as the lanes; contiguous.h has the other format.
#pragma once

#include "cpu/max_pool2d/contiguous.h"

namespace lenet_ext::cpu {

// All channels of `count` output pixels side by side that have the taps `rows` x `columns`. corner: the pixel
// under tap (0, 0) of the first window. kKernel as above.
template <class S, int kKernel, class Stored, class Index>
void max_pool2d_pixels(const PoolRange<Stored>& range, Span rows, Span columns, int64_t count,
                       const Stored* corner, Stored* output, Index* argmax) {
  const MaxPool2dShape& s = range.shape;
  if (kKernel > 0) rows = columns = Span{0, kKernel};
  const int64_t kernel_width = kKernel > 0 ? kKernel : s.kernel_width;
  const int64_t row_step = (kKernel > 0 ? 1 : s.dilation_h) * s.width * s.channels;
  const int64_t column_step = (kKernel > 0 ? 1 : s.dilation_w) * s.channels;
  const int64_t reach = (rows.end - 1) * row_step + (columns.end - 1) * column_step + S::width;
  const auto block = [&](auto full, const Stored* p, int64_t offset, int n) {
    Maximum<S> best(rows.begin * kernel_width + columns.begin);
    for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
      for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
        best.offer(load_first<S, full>(p + kh * row_step + kw * column_step, n), kh * kernel_width + kw);
      }
    }
    store_maximum<S, full>(best, output + offset, argmax == nullptr ? nullptr : argmax + offset, n);
  };
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < s.channels; c += S::width) {
      const Stored* p = corner + i * s.stride_w * s.channels + c;
      const int64_t offset = i * s.channels + c;
      // The next row's windows: hardware sees too many short streams here to do so itself.
      for (int64_t kh = 0; kh < kKernel; ++kh) __builtin_prefetch(p + (kh + s.stride_h) * row_step);
      if (c + S::width <= s.channels ||
          (range.input_end - p >= reach && range.output_end - (output + offset) >= S::width)) {
        block(std::true_type{}, p, offset, S::width);
      } else {
        block(std::false_type{}, p, offset, static_cast<int>(s.channels - c));
      }
    }
  }
}

template <class S, class Stored, class Index>
void max_pool2d_channels_last(const MaxPool2dShape& s, const Stored* input, Stored* output, Index* argmax) {
  const Span inside =
      interior_windows(s.width, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w, s.out_width);
  const int known = known_kernel(s);
  const auto any_kernel = max_pool2d_pixels<S, 0, Stored, Index>;
  const auto whole_kernel = known == 2   ? max_pool2d_pixels<S, 2, Stored, Index>
                            : known == 3 ? max_pool2d_pixels<S, 3, Stored, Index>
                                         : any_kernel;
  const int64_t vectors = (s.channels + S::width - 1) / S::width, in_image = s.height * s.width * s.channels;
  // One item of work is one output row.
  parallel_for(s.batch * s.out_height, vectors * window_cost(s, 1), [&](int64_t first, int64_t last) {
    const PoolRange<Stored> range{s, inside, input + s.batch * in_image,
                                  output + last * s.out_width * s.channels};
    for (int64_t item = first; item < last; ++item) {
      const int64_t top = item % s.out_height * s.stride_h - s.pad_h;
      const Span rows = taps_inside(top, s.kernel_height, s.dilation_h, s.height);
      const bool is_whole = rows.end - rows.begin == s.kernel_height;
      const auto pixels = [&](auto kernel, int64_t ow, int64_t count, Span columns) {
        const int64_t left = ow * s.stride_w - s.pad_w, offset = (item * s.out_width + ow) * s.channels;
        const Stored* corner = input + item / s.out_height * in_image + (top * s.width + left) * s.channels;
        kernel(range, rows, columns, count, corner, output + offset,
               argmax == nullptr ? nullptr : argmax + offset);
      };
      const auto border = [&](int64_t begin, int64_t end) {
        for (int64_t ow = begin; ow < end; ++ow) {
          pixels(any_kernel, ow, 1,
                 taps_inside(ow * s.stride_w - s.pad_w, s.kernel_width, s.dilation_w, s.width));
        }
      };
      border(0, inside.begin);
      pixels(is_whole ? whole_kernel : any_kernel, inside.begin, inside.end - inside.begin,
             Span{0, s.kernel_width});
      border(inside.end, s.out_width);
    }
  });
}

// Tensors dense in `format`; argmax may be null, else uint8_t or int32_t (MaxPool2dShape::byte_argmax).
template <class S, class Stored>
void max_pool2d(const MaxPool2dShape& s, Format format, const Stored* input, Stored* output, void* argmax) {
  with_argmax_type(s, argmax, [&](auto* typed_argmax) {
    if (format == Format::kChannelsLast) {
      max_pool2d_channels_last<S>(s, input, output, typed_argmax);
    } else {
      max_pool2d_contiguous<S>(s, input, output, typed_argmax);
    }
  });
}

}  // namespace lenet_ext::cpu
