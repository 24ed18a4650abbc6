// The argmax of max_pool2d (a position within a window) as a flat position h * W + w of the input plane.
#pragma once

#include <algorithm>

#include "cpu/max_pool2d/window.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// Tensors dense in `format`. argmax comes from the caller: what lies outside of the plane is moved to its
// nearest position.
inline void max_pool2d_indices(const MaxPool2dShape& s, Format format, const void* argmax, int64_t* indices) {
  // One item of work is one row: of output columns, or of output columns and channels.
  const int64_t channels = format == Format::kChannelsLast ? s.channels : 1;
  const int64_t row_size = s.out_width * channels, rows = s.planes() / channels * s.out_height;
  with_argmax_type(s, argmax, [&](const auto* typed_argmax) {
    parallel_for(rows, 10 * row_size, [&](int64_t first, int64_t last) {
      for (int64_t i = first * row_size; i < last * row_size; ++i) {
        const int64_t best = typed_argmax[i], oh = i / row_size % s.out_height, ow = i % row_size / channels;
        const int64_t h = oh * s.stride_h - s.pad_h + best / s.kernel_width * s.dilation_h;
        const int64_t w = ow * s.stride_w - s.pad_w + best % s.kernel_width * s.dilation_w;
        indices[i] =
            std::clamp<int64_t>(h, 0, s.height - 1) * s.width + std::clamp<int64_t>(w, 0, s.width - 1);
      }
    });
  });
}

}  // namespace lenet_ext::cpu
