// How windows meet the rows, or the columns, of an image: those of a pool or of a convolution's kernel.
#pragma once

#include "cuda/common/launch.cuh"

namespace lenet_ext::cuda {

struct Axis {
  int32_t size, out_size;
  int32_t kernel, stride, pad, dilation;
};

inline Axis axis(int64_t size, int64_t out_size, int64_t kernel, int64_t stride, int64_t pad,
                 int64_t dilation) {
  return {static_cast<int32_t>(size),   static_cast<int32_t>(out_size), static_cast<int32_t>(kernel),
          static_cast<int32_t>(stride), static_cast<int32_t>(pad),      static_cast<int32_t>(dilation)};
}

struct Span {
  int32_t begin, end;
};

// The taps of a window that begins at `start` (negative in the padding) that lie in the input.
__device__ inline Span taps_inside(const Axis& axis, int32_t start) {
  int32_t begin = 0, end = axis.kernel;
  if (start < 0) begin = divide(axis.dilation - 1 - start, axis.dilation).quotient;
  if (start + (axis.kernel - 1) * axis.dilation >= axis.size) {
    end = start < axis.size ? divide(axis.size - 1 - start, axis.dilation).quotient + 1 : 0;
  }
  return {begin, end > begin ? end : begin};
}

// The outputs whose windows reach over `position`.
__device__ inline Span windows_around(const Axis& axis, int32_t position) {
  const int32_t padded = position + axis.pad, reach = (axis.kernel - 1) * axis.dilation;
  const int32_t begin = padded > reach ? divide(padded - reach + axis.stride - 1, axis.stride).quotient : 0;
  const int32_t end = divide(padded, axis.stride).quotient + 1;
  return {begin, end < axis.out_size ? end : axis.out_size};
}

}  // namespace lenet_ext::cuda
