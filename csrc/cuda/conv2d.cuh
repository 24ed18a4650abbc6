// What the files of conv2d have in common: images, weights and their strides as loaders and levels.
#pragma once

#include "cuda/contract/contract_launch.cuh"
#include "cuda/contract/patches.cuh"

namespace lenet_ext::cuda {

// The strides of a dense (N, C, H, W) tensor.
struct ImageStrides {
  int64_t image, channel, pixel;
};

inline ImageStrides image_strides(Format format, int64_t channels, int64_t height, int64_t width) {
  const int64_t pixels = height * width;
  return format == Format::kChannelsLast ? ImageStrides{channels * pixels, 1, channels}
                                         : ImageStrides{channels * pixels, pixels, 1};
}

inline void check_positions(const char* op, const Conv2dShape& s) {
  check_positions(op, s.height + s.pad_top + s.pad_bottom, s.width + s.pad_left + s.pad_right);
}

// The pixels of (N, C, H, W) as rows or columns.
inline Levels pixel_levels(const ImageStrides& strides, int64_t height, int64_t width) {
  return {height * width, strides.pixel, strides.image};
}

// The taps of a weight (outputs, inputs, KH, KW), for `channels` of stride `channel_stride`, in the order of
// Patches::tap.
inline Levels tap_levels(const Conv2dShape& s, Format format, int64_t channels, int64_t channel_stride) {
  const int64_t plane = s.kernel_height * s.kernel_width;
  return format == Format::kChannelsLast ? Levels{channels, channel_stride, 1}
                                         : Levels{plane, 1, channel_stride};
}

inline int64_t weight_stride(const Conv2dShape& s) {
  return s.group_in() * s.kernel_height * s.kernel_width;
}

// The parts of Patches that input and output pixels share.
template <class Loader, class Stored>
Loader patches(const Conv2dShape& s, Format format, const void* image, int64_t image_channels,
               int64_t group_channels, int64_t height, int64_t width, int64_t out_height, int64_t out_width) {
  const ImageStrides strides = image_strides(format, image_channels, height, width);
  Loader loader{};
  loader.image = static_cast<const Stored*>(image);
  loader.group_stride = group_channels * strides.channel;
  loader.image_stride = strides.image;
  loader.channel_stride = strides.channel;
  loader.pixel_stride = strides.pixel;
  loader.height = static_cast<int32_t>(height), loader.width = static_cast<int32_t>(width);
  loader.out_height = out_height, loader.out_width = out_width;
  loader.stride_h = static_cast<int32_t>(s.stride_h), loader.stride_w = static_cast<int32_t>(s.stride_w);
  loader.pad_h = static_cast<int32_t>(s.pad_top), loader.pad_w = static_cast<int32_t>(s.pad_left);
  loader.dilation_h = static_cast<int32_t>(s.dilation_h);
  loader.dilation_w = static_cast<int32_t>(s.dilation_w);
  loader.kernel_height = s.kernel_height, loader.kernel_width = s.kernel_width;
  loader.channels = group_channels;
  loader.format = format;
  return loader;
}

}  // namespace lenet_ext::cuda
