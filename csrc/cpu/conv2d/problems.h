// conv2d's forward and its input gradient as correlations (correlation.h), and the latter as a convolution.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/conv2d/correlation.h"
#include "shapes.h"

namespace lenet_ext::cpu {

inline Correlation conv2d_correlation(const Conv2dShape& s, Format format) {
  Correlation c{};
  c.batch = s.batch, c.groups = s.groups, c.format = format;
  c.step_h = c.step_w = c.stride_h = c.stride_w = 1;
  c.weight_group_stride = s.group_out() * s.group_in() * s.kernel_height * s.kernel_width;
  return c;
}

// output (N, C_out, OH, OW) = input * weight + bias
inline Correlation conv2d_forward_problem(const Conv2dShape& s, Format format) {
  Correlation c = conv2d_correlation(s, format);
  c.in_channels = s.group_in(), c.out_channels = s.group_out();
  c.in_height = s.height, c.in_width = s.width;
  c.out_height = c.rows = s.out_height, c.out_width = c.columns = s.out_width;
  c.stride_h = s.stride_h, c.stride_w = s.stride_w;
  c.weight_in_stride = s.kernel_height * s.kernel_width;
  c.weight_out_stride = s.group_in() * c.weight_in_stride;
  for (int64_t y = 0; y < s.kernel_height; ++y) {
    for (int64_t x = 0; x < s.kernel_width; ++x) {
      c.taps.push_back({y * s.dilation_h - s.pad_top, x * s.dilation_w - s.pad_left, y * s.kernel_width + x});
    }
  }
  return c;
}

// With stride 1 the input gradient is itself a convolution, of grad_output with the kernel turned round and its
// channels exchanged, if the kernel is wider than the padding.
inline bool input_grad_is_convolution(const Conv2dShape& s) {
  const int64_t reach_h = (s.kernel_height - 1) * s.dilation_h, reach_w = (s.kernel_width - 1) * s.dilation_w;
  return s.groups == 1 && s.stride_h == 1 && s.stride_w == 1 &&
         std::max(s.pad_top, s.pad_bottom) <= reach_h && std::max(s.pad_left, s.pad_right) <= reach_w;
}
inline Conv2dShape input_grad_convolution(const Conv2dShape& s) {
  const int64_t reach_h = (s.kernel_height - 1) * s.dilation_h, reach_w = (s.kernel_width - 1) * s.dilation_w;
  Conv2dShape c = s;
  std::swap(c.in_channels, c.out_channels);
  std::swap(c.height, c.out_height), std::swap(c.width, c.out_width);
  c.pad_top = reach_h - s.pad_top, c.pad_bottom = reach_h - s.pad_bottom;
  c.pad_left = reach_w - s.pad_left, c.pad_right = reach_w - s.pad_right;
  return c;
}

// grad_input (N, C_in, H, W): input pixel y receives from output row o by kernel row k where o * stride = y +
// pad - k * dilation. So the pixels of one phase (y modulo stride) are a correlation of grad_output with
// those k for which the right side is a multiple of the stride.
inline std::vector<Correlation> conv2d_input_grad_problems(const Conv2dShape& s, Format format) {
  std::vector<Correlation> problems;
  Correlation c = conv2d_correlation(s, format);
  c.in_channels = s.group_out(), c.out_channels = s.group_in();
  c.in_height = s.out_height, c.in_width = s.out_width;
  c.out_height = s.height, c.out_width = s.width;
  c.step_h = s.stride_h, c.step_w = s.stride_w;
  c.weight_out_stride = s.kernel_height * s.kernel_width;
  c.weight_in_stride = s.group_in() * c.weight_out_stride;
  for (c.top = 0; c.top < std::min(s.stride_h, s.height); ++c.top) {
    for (c.left = 0; c.left < std::min(s.stride_w, s.width); ++c.left) {
      c.rows = (s.height - c.top + s.stride_h - 1) / s.stride_h;
      c.columns = (s.width - c.left + s.stride_w - 1) / s.stride_w;
      c.taps.clear();
      for (int64_t y = 0; y < s.kernel_height; ++y) {
        for (int64_t x = 0; x < s.kernel_width; ++x) {
          const int64_t row = c.top + s.pad_top - y * s.dilation_h,
                        column = c.left + s.pad_left - x * s.dilation_w;
          if (row % s.stride_h == 0 && column % s.stride_w == 0) {
            c.taps.push_back({row / s.stride_h, column / s.stride_w, y * s.kernel_width + x});
          }
        }
      }
      problems.push_back(c);
    }
  }
  return problems;
}

}  // namespace lenet_ext::cpu
