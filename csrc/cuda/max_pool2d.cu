// max_pool2d: the maximum of every window and, if asked for, its tap (kh * kernel_width + kw), with ATen's
// rules: start at -inf, a strictly greater value or a NaN wins, taps in scan order, padding never wins. Its
// gradient is a gather: each element of the input looks into the windows that hold it.
//
// One thread per output, or per element of the input, in the order of memory: neighbouring threads load and
// store neighbouring elements, in either format.
#include <cmath>

#include "cuda/launch.cuh"
#include "cuda/launchers.h"
#include "cuda/number.cuh"

namespace lenet_ext::cuda {
namespace {

// Where an element of a dense tensor of images lies.
struct Place {
  int64_t h, w;
  int64_t image_or_plane;  // whose elements are `step` apart: the image and channel of channels_last
  int64_t channel;         // 0 if contiguous
};

__device__ Place place_of(int64_t index, Format format, int64_t channels, int64_t height, int64_t width) {
  int64_t channel = 0;
  if (format == Format::kChannelsLast) {
    const Division d = divide(index, channels);
    index = d.quotient, channel = d.remainder;
  }
  const Division row = divide(index, width), plane = divide(row.quotient, height);
  return {plane.remainder, row.remainder, plane.quotient, channel};
}

// The element of the tensor (of `height` x `width` pixels) at (h, w) in the plane of `place`.
__device__ int64_t offset_of(const Place& place, int64_t step, int64_t height, int64_t width, int64_t h,
                             int64_t w) {
  return ((place.image_or_plane * height + h) * width + w) * step + place.channel;
}

__device__ int64_t step_of(const MaxPool2dShape& s, Format format) {
  return format == Format::kChannelsLast ? s.channels : 1;
}

struct Span {
  int64_t begin, end;
};

// The taps of a window that begins at `start` (negative in the padding) that lie in [0, size).
__device__ Span taps_inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  int64_t begin = 0, end = kernel;
  if (start < 0) begin = divide(dilation - 1 - start, dilation).quotient;
  if (start + (kernel - 1) * dilation >= size) {
    end = start < size ? divide(size - 1 - start, dilation).quotient + 1 : 0;
  }
  return {begin, end > begin ? end : begin};
}

// The outputs along one axis whose windows may hold `position`.
__device__ Span windows_around(int64_t position, int64_t kernel, int64_t stride, int64_t pad,
                               int64_t dilation, int64_t out_size) {
  const int64_t from_first = position + pad, reach = (kernel - 1) * dilation;
  const int64_t begin = from_first > reach ? divide(from_first - reach + stride - 1, stride).quotient : 0;
  const int64_t end = divide(from_first, stride).quotient + 1;
  return {begin, end < out_size ? end : out_size};
}

// kKernel: the size of a square kernel without padding or dilation whose windows end inside of the image, so
// that all its elements are loaded at once; or 0 for any.
template <int kKernel, class Stored>
__global__ __launch_bounds__(kElementThreads) void max_pool2d_outputs(MaxPool2dShape s, Format format,
                                                                      int64_t count, const Stored* input,
                                                                      Stored* output, uint8_t* byte_taps,
                                                                      int32_t* word_taps) {
  const int64_t i = element_index();
  if (i >= count) return;
  const Place place = place_of(i, format, s.channels, s.out_height, s.out_width);
  const int64_t step = step_of(s, format);
  const int64_t top = place.h * s.stride_h - s.pad_h, left = place.w * s.stride_w - s.pad_w;
  Span rows{0, kKernel}, columns{0, kKernel};
  if (kKernel == 0) {
    rows = taps_inside(top, s.kernel_height, s.dilation_h, s.height);
    columns = taps_inside(left, s.kernel_width, s.dilation_w, s.width);
  }
  const int64_t kernel_width = kKernel > 0 ? kKernel : s.kernel_width;
  const int64_t dilation_h = kKernel > 0 ? 1 : s.dilation_h, dilation_w = kKernel > 0 ? 1 : s.dilation_w;
  // The first tap stays if nothing is greater than -inf.
  ComputeType<Stored> best = -INFINITY;
  int64_t best_tap = rows.begin * kernel_width + columns.begin;
#pragma unroll(kKernel > 0 ? kKernel : 1)
  for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
#pragma unroll(kKernel > 0 ? kKernel : 1)
    for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
      const auto value = widen(
          input[offset_of(place, step, s.height, s.width, top + kh * dilation_h, left + kw * dilation_w)]);
      if (value > best || value != value) best = value, best_tap = kh * kernel_width + kw;
    }
  }
  output[i] = narrow<Stored>(best);
  if (byte_taps != nullptr) byte_taps[i] = static_cast<uint8_t>(best_tap);
  if (word_taps != nullptr) word_taps[i] = static_cast<int32_t>(best_tap);
}

// Windows in scan order, summed in the compute type. A tap that is no position of its window, or lies in the
// padding, is found by no element.
template <class Stored, class Tap>
__global__ __launch_bounds__(kElementThreads) void max_pool2d_gather(MaxPool2dShape s, Format format,
                                                                     int64_t count, const Stored* grad_output,
                                                                     const Tap* taps, Stored* grad_input) {
  const int64_t i = element_index();
  if (i >= count) return;
  const Place place = place_of(i, format, s.channels, s.height, s.width);
  const int64_t step = step_of(s, format);
  const Span rows = windows_around(place.h, s.kernel_height, s.stride_h, s.pad_h, s.dilation_h, s.out_height);
  const Span columns =
      windows_around(place.w, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w, s.out_width);
  ComputeType<Stored> sum = 0;
  for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
    const Division kh = divide(place.h + s.pad_h - oh * s.stride_h, s.dilation_h);
    if (kh.remainder != 0) continue;
    for (int64_t ow = columns.begin; ow < columns.end; ++ow) {
      const Division kw = divide(place.w + s.pad_w - ow * s.stride_w, s.dilation_w);
      if (kw.remainder != 0) continue;
      const int64_t offset = offset_of(place, step, s.out_height, s.out_width, oh, ow);
      if (taps[offset] == kh.quotient * s.kernel_width + kw.quotient) sum += widen(grad_output[offset]);
    }
  }
  grad_input[i] = narrow<Stored>(sum);
}

__device__ int64_t clamp(int64_t value, int64_t last) {
  return value < 0 ? 0 : value > last ? last : value;
}

// Taps come from the caller: what lies outside of the plane is moved to its nearest position.
template <class Tap>
__global__ __launch_bounds__(kElementThreads) void positions(MaxPool2dShape s, Format format, int64_t count,
                                                             const Tap* taps, int64_t* indices) {
  const int64_t i = element_index();
  if (i >= count) return;
  const Place place = place_of(i, format, s.channels, s.out_height, s.out_width);
  const int64_t tap = taps[i], row = tap / s.kernel_width, column = tap % s.kernel_width;
  const int64_t h = place.h * s.stride_h - s.pad_h + row * s.dilation_h;
  const int64_t w = place.w * s.stride_w - s.pad_w + column * s.dilation_w;
  indices[i] = clamp(h, s.height - 1) * s.width + clamp(w, s.width - 1);
}

int64_t output_count(const MaxPool2dShape& s) {
  return s.planes() * s.out_height * s.out_width;
}

bool is_plain(const MaxPool2dShape& s, int64_t kernel) {
  return s.kernel_height == kernel && s.kernel_width == kernel && s.pad_h == 0 && s.pad_w == 0 &&
         s.dilation_h == 1 && s.dilation_w == 1 && (s.out_height - 1) * s.stride_h + kernel <= s.height &&
         (s.out_width - 1) * s.stride_w + kernel <= s.width;
}

}  // namespace

template <class Stored>
void max_pool2d(const MaxPool2dShape& s, Format format, const void* input, void* output, void* taps) {
  const int64_t count = output_count(s);
  const auto kernel = is_plain(s, 2)   ? &max_pool2d_outputs<2, Stored>
                      : is_plain(s, 3) ? &max_pool2d_outputs<3, Stored>
                                       : &max_pool2d_outputs<0, Stored>;
  launch_elements("max_pool2d", count, kernel, s, format, count, static_cast<const Stored*>(input),
                  static_cast<Stored*>(output), s.byte_taps() ? static_cast<uint8_t*>(taps) : nullptr,
                  s.byte_taps() ? nullptr : static_cast<int32_t*>(taps));
}

template <class Stored>
void max_pool2d_input_grad(const MaxPool2dShape& s, Format format, const void* grad_output, const void* taps,
                           void* grad_input) {
  const int64_t count = s.planes() * s.height * s.width;
  const auto launch_with = [&](const auto* typed_taps) {
    launch_elements("max_pool2d_input_grad", count,
                    &max_pool2d_gather<Stored, std::remove_cvref_t<decltype(*typed_taps)>>, s, format, count,
                    static_cast<const Stored*>(grad_output), typed_taps, static_cast<Stored*>(grad_input));
  };
  s.byte_taps() ? launch_with(static_cast<const uint8_t*>(taps))
                : launch_with(static_cast<const int32_t*>(taps));
}

void max_pool2d_indices(const MaxPool2dShape& s, Format format, const void* taps, int64_t* indices) {
  const int64_t count = output_count(s);
  const char* op = "max_pool2d_indices";
  if (s.byte_taps()) {
    launch_elements(op, count, &positions<uint8_t>, s, format, count, static_cast<const uint8_t*>(taps),
                    indices);
  } else {
    launch_elements(op, count, &positions<int32_t>, s, format, count, static_cast<const int32_t*>(taps),
                    indices);
  }
}

template void max_pool2d<float>(const MaxPool2dShape&, Format, const void*, void*, void*);
template void max_pool2d<double>(const MaxPool2dShape&, Format, const void*, void*, void*);
template void max_pool2d<BFloat16>(const MaxPool2dShape&, Format, const void*, void*, void*);
template void max_pool2d<Float16>(const MaxPool2dShape&, Format, const void*, void*, void*);
template void max_pool2d_input_grad<float>(const MaxPool2dShape&, Format, const void*, const void*, void*);
template void max_pool2d_input_grad<double>(const MaxPool2dShape&, Format, const void*, const void*, void*);
template void max_pool2d_input_grad<BFloat16>(const MaxPool2dShape&, Format, const void*, const void*, void*);
template void max_pool2d_input_grad<Float16>(const MaxPool2dShape&, Format, const void*, const void*, void*);

}  // namespace lenet_ext::cuda
