// max_pool2d of contiguous tensors: the lanes are neighbouring output columns, for a stride of 1 or 2. Only
// columns whose windows lie inside the image are done so ("interior"); the others, and other strides, one by
// one.
#pragma once

#include <algorithm>

#include "cpu/max_pool2d/window.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// One window, clipped to the taps `rows` x `columns`; corner is the (perhaps padded) element under tap (0,
// 0).
template <class S, class Stored, class Index>
void max_pool2d_window(const MaxPool2dShape& s, Span rows, Span columns, const Stored* plane, int64_t corner,
                       Stored* output, Index* argmax) {
  using Scalar = typename S::Scalar;
  constexpr int64_t kFewTaps = 32;
  const auto element = [&](int64_t kh, int64_t kw) {
    return to_compute(plane[corner + kh * s.dilation_h * s.width + kw * s.dilation_w]);
  };
  const int64_t first_tap = rows.begin * s.kernel_width + columns.begin;
  if ((rows.end - rows.begin) * (columns.end - columns.begin) <= kFewTaps) {
    // Vectors of one value, for their selection without branches, which would often be predicted wrongly.
    Maximum<S> best(first_tap);
    for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
      for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
        best.offer(S::broadcast(element(kh, kw)), kh * s.kernel_width + kw);
      }
    }
    store_maximum<S, false>(best, output, argmax, 1);
    return;
  }
  // The more argmax, the fewer of them are a new maximum: branches are well predicted.
  Scalar best = -std::numeric_limits<Scalar>::infinity();
  int64_t best_argmax = first_tap;
  for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
    for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
      const Scalar value = element(kh, kw);
      if (value > best || value != value) best = value, best_argmax = kh * s.kernel_width + kw;
    }
  }
  from_compute(best, *output);
  if (argmax != nullptr) *argmax = static_cast<Index>(best_argmax);
}

// The first `count` of 2 * width elements; the others are anything.
template <class S, bool kFull, class Stored>
void load_two(const Stored* p, int count, typename S::Vector& low, typename S::Vector& high) {
  low = load_first<S, kFull>(p, std::min(count, S::width));
  high = count > S::width ? load_first<S, kFull>(p + S::width, count - S::width) : S::zero();
}

// n elements `stride` apart, the others zero.
template <class S, class Stored>
typename S::Vector load_strided(const Stored* p, int64_t stride, int n) {
  typename S::Scalar buffer[S::width] = {};
  for (int i = 0; i < n; ++i) buffer[i] = to_compute(p[i * stride]);
  return S::load(buffer);
}

// n windows side by side; with kFull whole vectors may be read and written. kKernel: the kernel size if known
// (square, dilation 1), else 0.
template <class S, int kStride, int kKernel, bool kFull, class Stored, class Index>
void max_pool2d_vector(const MaxPool2dShape& s, Span rows, const Stored* corner, int n, Stored* output,
                       Index* argmax) {
  const int64_t kernel_width = kKernel > 0 ? kKernel : s.kernel_width;
  const int64_t dilation_w = kKernel > 0 ? 1 : s.dilation_w;
  const int64_t row_step = (kKernel > 0 ? 1 : s.dilation_h) * s.width;
  const Span kernel_rows = kKernel > 0 ? Span{0, kKernel} : rows;
  Maximum<S> best(kernel_rows.begin * kernel_width);
  for (int64_t kh = kernel_rows.begin; kh < kernel_rows.end; ++kh) {
    const Stored* row = corner + kh * row_step;
    const int64_t tap = kh * kernel_width;
    int64_t kw = 0;
    if constexpr (kStride == 0) {
      for (; kw < kernel_width; ++kw)
        best.offer(load_strided<S>(row + kw * dilation_w, s.stride_w, n), tap + kw);
    } else if constexpr (kStride == 1) {
      for (; kw < kernel_width; ++kw) best.offer(load_first<S, kFull>(row + kw * dilation_w, n), tap + kw);
    } else {
      typename S::Vector low, high;
      for (; dilation_w == 1 && kw + 2 <= kernel_width; kw += 2) {  // two argmax from the same elements
        load_two<S, kFull>(row + kw, 2 * n, low, high);
        best.offer(S::even(low, high), tap + kw);
        best.offer(S::odd(low, high), tap + kw + 1);
      }
      for (; kw < kernel_width; ++kw) {
        load_two<S, kFull>(row + kw * dilation_w, 2 * n - 1, low, high);
        best.offer(S::even(low, high), tap + kw);
      }
    }
  }
  store_maximum<S, kFull>(best, output, argmax, n);
}

// What the kernels of one range of work share. Full vectors are used for the rest of a row too, where they
// stay in the tensor that is read and in the part of the output that this range writes: rows are written in
// order, so that what is written beyond the end of one is overwritten by the next.
template <class Stored>
struct PoolRange {
  const MaxPool2dShape& shape;
  Span inside;               // the interior columns
  const Stored* input_end;   // of the tensor
  const Stored* output_end;  // of this range
};

// The interior columns of `count` output rows that have the taps `rows`. corner: the element under tap (0, 0)
// of the first window; output, argmax: of that window.
template <class S, int kStride, int kKernel, class Stored, class Index>
void max_pool2d_interior(const PoolRange<Stored>& range, Span rows, int64_t count, const Stored* corner,
                         Stored* output, Index* argmax) {
  const MaxPool2dShape& s = range.shape;
  const int64_t columns = range.inside.end - range.inside.begin;
  const int64_t reach =
      (rows.end - 1) * s.dilation_h * s.width + (s.kernel_width - 1) * s.dilation_w + kStride * S::width;
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < columns; i += S::width) {
      const Stored* p = corner + row * s.stride_h * s.width + i * s.stride_w;
      Stored* out = output + row * s.out_width + i;
      Index* at = argmax == nullptr ? nullptr : argmax + row * s.out_width + i;
      const int n = static_cast<int>(std::min<int64_t>(S::width, columns - i));
      if (kStride == 0 && n < 4) {
        for (int k = 0; k < n; ++k) {
          max_pool2d_window<S>(s, rows, Span{0, s.kernel_width}, p, k * s.stride_w, out + k,
                               argmax == nullptr ? nullptr : at + k);
        }
      } else if (kStride > 0 && range.input_end - p >= reach && range.output_end - out >= S::width) {
        max_pool2d_vector<S, kStride, kKernel, true>(s, rows, p, n, out, at);
      } else {
        max_pool2d_vector<S, kStride, kKernel, false>(s, rows, p, n, out, at);
      }
    }
  }
}

// 2 or 3 if the kernel is of that size, square and not dilated, else 0.
inline int known_kernel(const MaxPool2dShape& s) {
  const bool square = s.kernel_height == s.kernel_width && s.dilation_h == 1 && s.dilation_w == 1;
  return square && (s.kernel_width == 2 || s.kernel_width == 3) ? static_cast<int>(s.kernel_width) : 0;
}

template <class Stored, class Index>
using InteriorKernel = void (*)(const PoolRange<Stored>&, Span, int64_t, const Stored*, Stored*, Index*);

// whole: for rows where all argmax are inside the image.
template <class S, class Stored, class Index>
InteriorKernel<Stored, Index> interior_kernel(const MaxPool2dShape& s, bool whole) {
  const int kernel = whole ? known_kernel(s) : 0;
  if (s.stride_w == 1) {
    return kernel == 2   ? max_pool2d_interior<S, 1, 2, Stored, Index>
           : kernel == 3 ? max_pool2d_interior<S, 1, 3, Stored, Index>
                         : max_pool2d_interior<S, 1, 0, Stored, Index>;
  }
  if (s.stride_w == 2) {
    return kernel == 2   ? max_pool2d_interior<S, 2, 2, Stored, Index>
           : kernel == 3 ? max_pool2d_interior<S, 2, 3, Stored, Index>
                         : max_pool2d_interior<S, 2, 0, Stored, Index>;
  }
  return max_pool2d_interior<S, 0, 0, Stored, Index>;
}

template <class S, class Stored, class Index>
void max_pool2d_contiguous(const MaxPool2dShape& shape, const Stored* input, Stored* output, Index* argmax) {
  const MaxPool2dShape s = stack_planes(shape);
  const Span whole =
      interior_windows(s.height, s.kernel_height, s.stride_h, s.pad_h, s.dilation_h, s.out_height);
  const Span inside =
      interior_windows(s.width, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w, s.out_width);
  const auto whole_kernel = interior_kernel<S, Stored, Index>(s, true);
  const auto clipped_kernel = interior_kernel<S, Stored, Index>(s, false);
  const auto argmax_at = [&](int64_t offset) { return argmax == nullptr ? nullptr : argmax + offset; };
  // One item of work is one output row.
  parallel_for(s.planes() * s.out_height, window_cost(s, s.stride_w <= 2 ? S::width : 1),
               [&](int64_t item, int64_t last) {
                 const PoolRange<Stored> range{s, inside, input + s.planes() * s.height * s.width,
                                               output + last * s.out_width};
                 while (item < last) {
                   const int64_t oh = item % s.out_height, top = oh * s.stride_h - s.pad_h;
                   const Stored* plane = input + item / s.out_height * s.height * s.width;
                   const bool is_whole = oh >= whole.begin && oh < whole.end;
                   const int64_t count = is_whole ? std::min(whole.end - oh, last - item) : 1;
                   const Span rows = is_whole ? Span{0, s.kernel_height}
                                              : taps_inside(top, s.kernel_height, s.dilation_h, s.height);
                   if (inside.begin < inside.end) {
                     const int64_t offset = item * s.out_width + inside.begin;
                     const Stored* corner = plane + top * s.width + inside.begin * s.stride_w - s.pad_w;
                     (is_whole ? whole_kernel : clipped_kernel)(range, rows, count, corner, output + offset,
                                                                argmax_at(offset));
                   }
                   const auto border = [&](int64_t row, int64_t begin, int64_t end) {
                     for (int64_t ow = begin; ow < end; ++ow) {
                       const int64_t left = ow * s.stride_w - s.pad_w,
                                     offset = (item + row) * s.out_width + ow;
                       max_pool2d_window<S>(s, rows, taps_inside(left, s.kernel_width, s.dilation_w, s.width),
                                            plane, (top + row * s.stride_h) * s.width + left, output + offset,
                                            argmax_at(offset));
                     }
                   };
                   for (int64_t row = 0; row < count; ++row) {
                     border(row, 0, inside.begin);
                     border(row, inside.end, s.out_width);
                   }
                   item += count;
                 }
               });
}

}  // namespace lenet_ext::cpu
