// Loaders of contract.cuh for the values that a kernel's taps meet as it moves over an image: the value of
// pixel p and tap t is image[position(p) + position(t)], or 0 outside of the image.
//
// For the output, p is an output pixel and t = (channel, kh, kw) of the input:
//     position = p * stride - pad + t * dilation
// For the input's gradient, p is a pixel of the input and t = (output channel, kh, kw) of the gradient:
//     position = (p + pad - t * dilation) / stride, where that leaves no remainder
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/number.cuh"

namespace lenet_ext::cuda {

struct Position {
  int32_t h, w;
  int64_t offset;
};

template <class Stored, bool kTransposed>
struct Patches {
  const Stored* image;
  int64_t group_stride, image_stride, channel_stride, pixel_stride;
  int32_t height, width;  // of the image that is read
  int64_t out_height, out_width;
  int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t kernel_height, kernel_width, channels;
  Format format;

  // Pixels are numbered (image, h, w).
  __device__ Position pixel(int64_t index) const {
    const Division column = divide(index, out_width), row = divide(column.quotient, out_height);
    const auto h = static_cast<int32_t>(row.remainder), w = static_cast<int32_t>(column.remainder);
    return kTransposed ? at(h + pad_h, w + pad_w, row.quotient * image_stride)
                       : at(h * stride_h - pad_h, w * stride_w - pad_w, row.quotient * image_stride);
  }

  // Taps are numbered as they lie in the image: (channel, kh, kw), or (kh, kw, channel) in channels_last.
  __device__ Position tap(int64_t index) const {
    int64_t channel = 0;
    if (format == Format::kChannelsLast) {
      const Division d = divide(index, channels);
      index = d.quotient, channel = d.remainder;
    }
    const Division column = divide(index, kernel_width), row = divide(column.quotient, kernel_height);
    if (format == Format::kContiguous) channel = row.quotient;
    const int32_t h = static_cast<int32_t>(row.remainder) * dilation_h;
    const int32_t w = static_cast<int32_t>(column.remainder) * dilation_w;
    return kTransposed ? at(-h, -w, channel * channel_stride) : at(h, w, channel * channel_stride);
  }

  __device__ Position outside() const { return {kOutside, kOutside, 0}; }
  __device__ Position ones() const { return {kOnes, kOnes, 0}; }

  __device__ ComputeType<Stored> load_at(const Position& pixel, const Position& tap) const {
    int32_t h = pixel.h + tap.h, w = pixel.w + tap.w;
    int64_t offset = pixel.offset + tap.offset;
    if (strided()) {
      if (h < 0 || w < 0 || h % stride_h != 0 || w % stride_w != 0) return 0;
      h /= stride_h, w /= stride_w;
      offset += (h * static_cast<int64_t>(width) + w) * pixel_stride;
    }
    if (static_cast<uint32_t>(h) < static_cast<uint32_t>(height) &&
        static_cast<uint32_t>(w) < static_cast<uint32_t>(width)) {
      return widen(image[offset]);
    }
    return tap.h == kOnes ? 1 : 0;
  }

  __device__ void to_group(int64_t group) { image += group * group_stride; }

 private:
  static constexpr int32_t kOutside = -static_cast<int32_t>(kMostPositions), kOnes = kOutside - 1;

  __device__ bool strided() const { return kTransposed && (stride_h != 1 || stride_w != 1); }

  // With a division still to come, the offset of the position is not known before both are.
  __device__ Position at(int32_t h, int32_t w, int64_t offset) const {
    return {h, w, strided() ? offset : offset + (h * static_cast<int64_t>(width) + w) * pixel_stride};
  }
};

// Row: pixel; step: tap.
template <class Stored, bool kTransposed>
struct PixelRows : Patches<Stored, kTransposed> {
  bool steps_adjacent;

  using Row = Position;
  using Step = Position;

  __device__ Row row(int64_t index) const { return this->pixel(index); }
  __device__ Row outside_row() const { return this->outside(); }
  __device__ Step step(int64_t index) const { return this->tap(index); }
  __device__ Step outside_step() const { return this->outside(); }
  __device__ ComputeType<Stored> load(const Row& row, const Step& step) const {
    return this->load_at(row, step);
  }
};

// Row: tap, and one more row of ones; step: pixel.
template <class Stored>
struct TapRows : Patches<Stored, false> {
  bool steps_adjacent;
  int64_t ones_row;

  using Row = Position;
  using Step = Position;

  __device__ Row row(int64_t index) const { return index == ones_row ? this->ones() : this->tap(index); }
  __device__ Row outside_row() const { return this->outside(); }
  __device__ Step step(int64_t index) const { return this->pixel(index); }
  __device__ Step outside_step() const { return this->outside(); }
  __device__ ComputeType<Stored> load(const Row& row, const Step& step) const {
    return this->load_at(step, row);
  }
};

}  // namespace lenet_ext::cuda
