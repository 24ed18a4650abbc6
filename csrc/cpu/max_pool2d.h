// max_pool2d: the maximum of every window and, if asked for, its tap (kh * kernel_width + kw), with ATen's
// rules: start at -inf, a strictly greater value or a NaN wins, taps in scan order, padding never wins.
//
// contiguous: neighbouring output columns are the lanes, for a stride of 1 or 2. Only columns whose windows
// lie inside the image are done so ("interior"); the others, and other strides, one by one. channels_last:
// channels are the lanes.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/pool_window.h"

namespace lenet_ext::cpu {

// The running maximum of a window and its tap, per lane.
template <class S>
struct Maximum {
  typename S::Vector value = S::broadcast(-std::numeric_limits<typename S::Scalar>::infinity());
  typename S::Vector tap;

  // The first tap stays if nothing is greater than -inf.
  explicit Maximum(int64_t first_tap) : tap(S::broadcast(static_cast<typename S::Scalar>(first_tap))) {}

  void offer(typename S::Vector candidate, int64_t candidate_tap) {
    const typename S::Mask wins = S::greater_or_nan(candidate, value);
    value = S::select(wins, candidate, value);
    tap = S::select(wins, S::broadcast(static_cast<typename S::Scalar>(candidate_tap)), tap);
  }
};

template <class S, bool kFull, class Stored, class Tap>
void store_maximum(const Maximum<S>& best, Stored* output, Tap* taps, int n) {
  if constexpr (kFull) {
    S::store(output, best.value);
  } else {
    S::store_partial(output, best.value, n);
  }
  if (taps != nullptr) store_taps<S>(taps, best.tap, kFull ? S::width : n);
}

// One window, clipped to the taps `rows` x `columns`; corner is the (perhaps padded) element under tap (0,
// 0).
template <class S, class Stored, class Tap>
void max_pool2d_window(const MaxPool2dShape& s, Span rows, Span columns, const Stored* plane, int64_t corner,
                       Stored* output, Tap* tap) {
  using Scalar = typename S::Scalar;
  Scalar best = -std::numeric_limits<Scalar>::infinity();
  int64_t best_tap = rows.begin * s.kernel_width + columns.begin;
  for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
    for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
      const Scalar value = to_compute(plane[corner + kh * s.dilation_h * s.width + kw * s.dilation_w]);
      if (value > best || value != value) best = value, best_tap = kh * s.kernel_width + kw;
    }
  }
  from_compute(best, *output);
  if (tap != nullptr) *tap = static_cast<Tap>(best_tap);
}

// The first `count` of 2 * width elements, the others zero.
template <class S, class Stored>
void load_two(const Stored* p, int count, typename S::Vector& low, typename S::Vector& high) {
  constexpr int width = S::width;
  low = count >= width ? S::load(p) : S::load_partial(p, count);
  high = count >= 2 * width ? S::load(p + width)
         : count > width    ? S::load_partial(p + width, count - width)
                            : S::zero();
}

// n windows side by side (n == width if kFull). kKernel: the kernel size if known (square, dilation 1), else
// 0.
template <class S, int kStride, int kKernel, bool kFull, class Stored, class Tap>
void max_pool2d_vector(const MaxPool2dShape& s, Span rows, const Stored* corner, int n, Stored* output,
                       Tap* taps) {
  const int64_t kernel_width = kKernel > 0 ? kKernel : s.kernel_width;
  const int64_t dilation_w = kKernel > 0 ? 1 : s.dilation_w;
  const int64_t row_step = (kKernel > 0 ? 1 : s.dilation_h) * s.width;
  const Span kernel_rows = kKernel > 0 ? Span{0, kKernel} : rows;
  if (kFull) n = S::width;
  Maximum<S> best(kernel_rows.begin * kernel_width);
  for (int64_t kh = kernel_rows.begin; kh < kernel_rows.end; ++kh) {
    const Stored* row = corner + kh * row_step;
    const int64_t tap = kh * kernel_width;
    int64_t kw = 0;
    if constexpr (kStride == 1) {
      for (; kw < kernel_width; ++kw) {
        const Stored* p = row + kw * dilation_w;
        best.offer(kFull ? S::load(p) : S::load_partial(p, n), tap + kw);
      }
    } else {
      typename S::Vector low, high;
      for (; dilation_w == 1 && kw + 2 <= kernel_width; kw += 2) {  // two taps from the same elements
        load_two<S>(row + kw, 2 * n, low, high);
        best.offer(S::even(low, high), tap + kw);
        best.offer(S::odd(low, high), tap + kw + 1);
      }
      for (; kw < kernel_width; ++kw) {
        load_two<S>(row + kw * dilation_w, 2 * n - 1, low, high);
        best.offer(S::even(low, high), tap + kw);
      }
    }
  }
  store_maximum<S, kFull>(best, output, taps, n);
}

// The interior columns of one output row. corner: the element under tap (0, 0) of the first of them.
template <class S, int kStride, int kKernel, class Stored, class Tap>
void max_pool2d_interior(const MaxPool2dShape& s, Span rows, Span columns, const Stored* corner,
                         Stored* output, Tap* taps) {
  const int64_t count = columns.end - columns.begin;
  for (int64_t i = 0; i < count; i += S::width) {
    const Stored* p = corner + i * kStride;
    Tap* tap = taps == nullptr ? nullptr : taps + i;
    if (i + S::width <= count) {
      max_pool2d_vector<S, kStride, kKernel, true>(s, rows, p, S::width, output + i, tap);
    } else {
      max_pool2d_vector<S, kStride, kKernel, false>(s, rows, p, static_cast<int>(count - i), output + i, tap);
    }
  }
}

template <class S, class Stored, class Tap>
void max_pool2d_interior_any_stride(const MaxPool2dShape& s, Span rows, Span columns, const Stored* corner,
                                    Stored* output, Tap* taps) {
  for (int64_t i = 0; i < columns.end - columns.begin; ++i) {
    max_pool2d_window<S>(s, rows, Span{0, s.kernel_width}, corner, i * s.stride_w, output + i,
                         taps == nullptr ? nullptr : taps + i);
  }
}

template <class Stored, class Tap>
using InteriorKernel = void (*)(const MaxPool2dShape&, Span, Span, const Stored*, Stored*, Tap*);

// The kernel for rows where all taps are inside the image (whole), or for any row.
template <class S, class Stored, class Tap>
InteriorKernel<Stored, Tap> interior_kernel(const MaxPool2dShape& s, bool whole) {
  const bool plain = whole && s.dilation_h == 1 && s.dilation_w == 1 && s.kernel_height == s.kernel_width;
  const int kernel = plain && s.kernel_width <= 3 ? static_cast<int>(s.kernel_width) : 0;
  if (s.stride_w == 1) {
    return kernel == 2   ? max_pool2d_interior<S, 1, 2, Stored, Tap>
           : kernel == 3 ? max_pool2d_interior<S, 1, 3, Stored, Tap>
                         : max_pool2d_interior<S, 1, 0, Stored, Tap>;
  }
  if (s.stride_w == 2) {
    return kernel == 2   ? max_pool2d_interior<S, 2, 2, Stored, Tap>
           : kernel == 3 ? max_pool2d_interior<S, 2, 3, Stored, Tap>
                         : max_pool2d_interior<S, 2, 0, Stored, Tap>;
  }
  return max_pool2d_interior_any_stride<S, Stored, Tap>;
}

template <class S, class Stored, class Tap>
void max_pool2d_contiguous(const MaxPool2dShape& s, const Stored* input, Stored* output, Tap* taps) {
  const Span whole_rows =
      interior_windows(s.height, s.kernel_height, s.stride_h, s.pad_h, s.dilation_h, s.out_height);
  const Span inside =
      interior_windows(s.width, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w, s.out_width);
  const auto whole_kernel = interior_kernel<S, Stored, Tap>(s, true);
  const auto clipped_kernel = interior_kernel<S, Stored, Tap>(s, false);
  const int lanes = s.stride_w <= 2 ? S::width : 1;
  // One item of work is one output row.
  parallel_for(s.planes() * s.out_height, window_cost(s, lanes), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t oh = item % s.out_height, top = oh * s.stride_h - s.pad_h;
      const Stored* plane = input + item / s.out_height * s.height * s.width;
      Stored* row = output + item * s.out_width;
      Tap* tap_row = taps == nullptr ? nullptr : taps + item * s.out_width;
      const bool whole = oh >= whole_rows.begin && oh < whole_rows.end;
      const Span rows =
          whole ? Span{0, s.kernel_height} : taps_inside(top, s.kernel_height, s.dilation_h, s.height);
      const auto border = [&](int64_t begin, int64_t end) {
        for (int64_t ow = begin; ow < end; ++ow) {
          const int64_t left = ow * s.stride_w - s.pad_w;
          const Span columns = taps_inside(left, s.kernel_width, s.dilation_w, s.width);
          max_pool2d_window<S>(s, rows, columns, plane, top * s.width + left, row + ow,
                               tap_row == nullptr ? nullptr : tap_row + ow);
        }
      };
      border(0, inside.begin);
      if (inside.begin < inside.end) {
        const int64_t left = inside.begin * s.stride_w - s.pad_w;
        (whole ? whole_kernel : clipped_kernel)(s, rows, inside, plane + top * s.width + left,
                                                row + inside.begin,
                                                tap_row == nullptr ? nullptr : tap_row + inside.begin);
      }
      border(inside.end, s.out_width);
    }
  });
}

// All channels of one output pixel.
template <class S, class Stored, class Tap>
void max_pool2d_pixel(const MaxPool2dShape& s, Span rows, Span columns, const Stored* image, int64_t corner,
                      Stored* output, Tap* taps) {
  const auto block = [&](auto full, int64_t c, int n) {
    Maximum<S> best(rows.begin * s.kernel_width + columns.begin);
    for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
      for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
        const int64_t pixel = corner + kh * s.dilation_h * s.width + kw * s.dilation_w;
        const Stored* p = image + pixel * s.channels + c;
        best.offer(full ? S::load(p) : S::load_partial(p, n), kh * s.kernel_width + kw);
      }
    }
    store_maximum<S, full>(best, output + c, taps == nullptr ? nullptr : taps + c, n);
  };
  int64_t c = 0;
  for (; c + S::width <= s.channels; c += S::width) block(std::true_type{}, c, S::width);
  if (c < s.channels) block(std::false_type{}, c, static_cast<int>(s.channels - c));
}

template <class S, class Stored, class Tap>
void max_pool2d_channels_last(const MaxPool2dShape& s, const Stored* input, Stored* output, Tap* taps) {
  const Span inside =
      interior_windows(s.width, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w, s.out_width);
  const int64_t vectors = (s.channels + S::width - 1) / S::width;
  parallel_for(s.batch * s.out_height, vectors * window_cost(s, 1), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const Stored* image = input + item / s.out_height * s.height * s.width * s.channels;
      const int64_t top = item % s.out_height * s.stride_h - s.pad_h;
      const Span rows = taps_inside(top, s.kernel_height, s.dilation_h, s.height);
      for (int64_t ow = 0; ow < s.out_width; ++ow) {
        const int64_t left = ow * s.stride_w - s.pad_w, offset = (item * s.out_width + ow) * s.channels;
        const Span columns = ow >= inside.begin && ow < inside.end
                                 ? Span{0, s.kernel_width}
                                 : taps_inside(left, s.kernel_width, s.dilation_w, s.width);
        max_pool2d_pixel<S>(s, rows, columns, image, top * s.width + left, output + offset,
                            taps == nullptr ? nullptr : taps + offset);
      }
    }
  });
}

// Tensors dense in `format`; taps may be null, else uint8_t or int32_t (MaxPool2dShape::byte_taps).
template <class S, class Stored>
void max_pool2d(const MaxPool2dShape& s, Format format, const Stored* input, Stored* output, void* taps) {
  with_tap_type(s, taps, [&](auto* typed_taps) {
    if (format == Format::kChannelsLast) {
      max_pool2d_channels_last<S>(s, input, output, typed_taps);
    } else {
      max_pool2d_contiguous<S>(s, input, output, typed_taps);
    }
  });
}

}  // namespace lenet_ext::cpu
