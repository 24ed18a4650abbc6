// Images as the convolution kernels read and write them, and their packing into padded windows.
#pragma once

#include <vector>

#include "cpu/microkernels/transpose.h"
#include "shapes.h"

namespace lenet_ext::cpu {

// `channels` consecutive channels of one image, in either format. `Stored` is const for an input.
template <class Stored>
struct Image {
  Stored* data;
  int64_t channels, height, width;
  int64_t channel_stride, row_stride, pixel_stride;

  Stored* at(int64_t channel, int64_t row, int64_t column) const {
    return data + channel * channel_stride + row * row_stride + column * pixel_stride;
  }
  bool planar() const { return pixel_stride == 1; }
};

// Channels [first, first + count) of image n of a dense (N, C, H, W) tensor.
template <class Stored>
Image<Stored> image_of(Stored* tensor, Format format, int64_t all_channels, int64_t height, int64_t width,
                       int64_t n, int64_t first, int64_t count) {
  Stored* image = tensor + n * all_channels * height * width;
  if (format == Format::kContiguous) {
    return {image + first * height * width, count, height, width, height * width, width, 1};
  }
  return {image + first, count, height, width, 1, width * all_channels, all_channels};
}

// The rectangle of an image that a block of outputs reads; what lies outside of the image is zero.
struct Window {
  int64_t top, left, height, width;
};

// The part of [0, count) whose image coordinate first + i * step lies in [0, size).
struct Range {
  int64_t begin, end;
};
inline Range inside(int64_t first, int64_t step, int64_t size, int64_t count) {
  const int64_t begin = first >= 0 ? 0 : (-first + step - 1) / step;
  const int64_t end = first >= size ? 0 : (size - 1 - first) / step + 1;
  return {std::min(begin, count), std::max(std::min(end, count), std::min(begin, count))};
}

// A packed window with a plane per channel. With strides, rows and columns are split by their phase
// (coordinate modulo stride), so that the pixels that one kernel tap meets at neighbouring outputs are
// neighbours in memory:
//   element (channel, y, x)  at
//   channel * plane + ((y % sh * sw + x % sw) * rows + y / sh) * columns + x / sw
struct PlanarLayout {
  int64_t stride_h, stride_w;
  int64_t rows, columns;  // of one phase

  PlanarLayout(int64_t height, int64_t width, int64_t stride_h, int64_t stride_w)
      : stride_h(stride_h),
        stride_w(stride_w),
        rows((height + stride_h - 1) / stride_h),
        columns((width + stride_w - 1) / stride_w) {}

  int64_t plane() const { return stride_h * stride_w * rows * columns; }
  int64_t offset(int64_t channel, int64_t y, int64_t x) const {
    const int64_t phase = y % stride_h * stride_w + x % stride_w;
    return channel * plane() + (phase * rows + y / stride_h) * columns + x / stride_w;
  }
};

// Asks for the first bytes of memory that is needed soon: what the next image of a task reads.
inline void prefetch(const void* memory, int64_t bytes) {
  constexpr int64_t kLine = 64, kMostBytes = 32 * 1024;
  const char* p = static_cast<const char*>(memory);
  for (int64_t i = 0; i < std::min(bytes, kMostBytes); i += kLine) __builtin_prefetch(p + i, 0, 2);
}

template <class S, class Stored>
void pack_planar(const Image<const Stored>& image, const Window& window, const PlanarLayout& layout,
                 typename S::Scalar* packed) {
  using T = typename S::Scalar;
  const auto [sh, sw, rows, columns] = layout;
  const Range all = inside(window.left, 1, image.width, window.width);
  if (window.top < 0 || window.top + window.height > image.height || all.end - all.begin < window.width ||
      sh * sw > 1) {
    std::fill_n(packed, image.channels * layout.plane(), T(0));
  }
  const int64_t plane = layout.plane();
  T* to_row = packed;
  for (int64_t phase_h = 0; phase_h < sh; ++phase_h) {
    for (int64_t phase_w = 0; phase_w < sw; ++phase_w) {
      const Range y = inside(window.top + phase_h, sh, image.height, rows);
      const Range x = inside(window.left + phase_w, sw, image.width, columns);
      const int64_t count = x.end - x.begin;
      for (int64_t i = y.begin; i < y.end && count > 0; ++i) {
        const Stored* from = image.at(0, window.top + phase_h + i * sh, window.left + phase_w + x.begin * sw);
        T* to = to_row + i * columns + x.begin;
        if (!image.planar()) {
          transpose<S>(from, sw * image.pixel_stride, to, plane, count, image.channels);
          continue;
        }
        for (int64_t c = 0; c < image.channels; ++c, from += image.channel_stride, to += plane) {
          if (sw == 1) {
            copy_row<S>(from, to, count);
          } else if (sw == 2) {
            copy_every_second<S>(from, to, count);
          } else {
            copy_strided(from, sw, to, 1, count);
          }
        }
      }
      to_row += rows * columns;
    }
  }
}

// element (channel, y, x)  at  (y * window.width + x) * channels + channel
template <class S, class Stored>
void pack_channels_last(Image<const Stored> image, Window window, typename S::Scalar* packed) {
  using T = typename S::Scalar;
  const int64_t channels = image.channels;
  // Whole rows of the image: one long row.
  if (window.left == 0 && window.width == image.width && window.top >= 0 &&
      window.top + window.height <= image.height && image.row_stride == image.width * image.pixel_stride) {
    image.data = image.at(0, window.top, 0), image.width *= window.height, image.height = 1;
    window = {0, 0, 1, image.width};
  }
  const Range x = inside(window.left, 1, image.width, window.width);
  for (int64_t y = 0; y < window.height; ++y, packed += window.width * channels) {
    const bool outside = window.top + y < 0 || window.top + y >= image.height;
    if (outside || x.begin == x.end) {
      std::fill_n(packed, window.width * channels, T(0));
      continue;
    }
    std::fill_n(packed, x.begin * channels, T(0));
    std::fill_n(packed + x.end * channels, (window.width - x.end) * channels, T(0));
    const Stored* from = image.at(0, window.top + y, window.left + x.begin);
    T* to = packed + x.begin * channels;
    if (image.planar()) {
      transpose<S>(from, image.channel_stride, to, channels, channels, x.end - x.begin);
    } else if (image.pixel_stride == channels) {
      copy_row<S>(from, to, (x.end - x.begin) * channels);
    } else {
      for (int64_t i = x.begin; i < x.end; ++i, from += image.pixel_stride, to += channels) {
        copy_row<S>(from, to, channels);
      }
    }
  }
}

// Writes block[channel * channel_stride + row * row_stride + column * pixel_stride] to the pixels of `image`
// that are `step_h` x `step_w` apart, beginning at (top, left). Either channel_stride or pixel_stride is 1.
template <class S, class Stored>
void unpack(const typename S::Scalar* block, int64_t channel_stride, int64_t row_stride, int64_t pixel_stride,
            const Image<Stored>& image, int64_t top, int64_t left, int64_t step_h, int64_t step_w,
            int64_t rows, int64_t columns) {
  const bool from_planes = pixel_stride == 1;
  // Whole rows of the image: one long row.
  if (step_h == 1 && step_w == 1 && columns == image.width && row_stride == columns * pixel_stride) {
    columns *= rows, rows = 1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const auto* from = block + r * row_stride;
    Stored* to = image.at(0, top + r * step_h, left);
    const int64_t step = step_w * image.pixel_stride;
    if (from_planes && step == 1) {
      for (int64_t c = 0; c < image.channels; ++c) {
        copy_row<S>(from + c * channel_stride, to + c * image.channel_stride, columns);
      }
    } else if (!from_planes && !image.planar()) {
      for (int64_t x = 0; x < columns; ++x)
        copy_row<S>(from + x * pixel_stride, to + x * step, image.channels);
    } else if (from_planes && !image.planar()) {
      transpose<S>(from, channel_stride, to, step, image.channels, columns);
    } else if (!from_planes && step == 1) {
      transpose<S>(from, pixel_stride, to, image.channel_stride, columns, image.channels);
    } else {
      for (int64_t c = 0; c < image.channels; ++c) {
        copy_strided(from + c * channel_stride, pixel_stride, to + c * image.channel_stride, step, columns);
      }
    }
  }
}

}  // namespace lenet_ext::cpu
