// Sizes of pools whose windows are given by tables, avg_pool2d and the adaptive ones, and the checks of their
// arguments.
#pragma once

#include <algorithm>
#include <vector>

#include "shapes.h"

namespace lenet_ext {

// A window along one axis: the input positions [begin, end). An average is over row times column divisor.
struct PoolWindow {
  int64_t begin, end, divisor;
};

struct WindowAxis {
  int64_t size = 0, out_size = 0;
  // Where all windows are [i * stride - pad, i * stride - pad + kernel) before they are cut to the input; else
  // no kernel.
  int64_t kernel = 0, stride = 0, pad = 0;
  std::vector<PoolWindow> windows = {};  // neither begins nor ends before its predecessor does

  bool is_regular() const { return kernel > 0; }
  bool is_global() const { return out_size == 1 && windows[0].begin == 0 && windows[0].end == size; }
  // Whether the windows cover the input from end to end, each position once.
  bool is_tiled() const { return is_regular() && kernel == stride && pad == 0 && size == out_size * stride; }
};

struct WindowPool2dShape {
  int64_t channels;
  WindowAxis rows, columns;

  int64_t in_plane() const { return rows.size * columns.size; }
  int64_t out_plane() const { return rows.out_size * columns.out_size; }
  bool is_global() const { return rows.is_global() && columns.is_global(); }
};

struct AvgPool2dParameters {
  int64_t kernel_height, kernel_width;
  int64_t stride_h, stride_w;
  int64_t pad_h, pad_w;  // on both sides
  bool ceil_mode, count_include_pad;
  int64_t divisor_override;  // 0: none
};

// As in ATen: what padding counts in an average ends where the padding does, not where the window does.
inline WindowAxis avg_pool_axis(const char* op, const char* axis, int64_t size, int64_t kernel,
                                int64_t stride, int64_t pad, const AvgPool2dParameters& p) {
  if (pad > kernel / 2) {
    fail(op, ": padding must be at most half of the kernel, got ", axis, " padding ", pad, ", kernel ",
         kernel);
  }
  WindowAxis a{.size = size, .kernel = kernel, .stride = stride, .pad = pad};
  a.out_size = max_pool_output_size(size, kernel, stride, pad, 1, p.ceil_mode);
  if (a.out_size < 1) {
    fail(op, ": padded input ", axis, " ", size + 2 * pad, " is smaller than the kernel's ", kernel);
  }
  for (int64_t i = 0; i < a.out_size; ++i) {
    const int64_t start = i * stride - pad, padded_end = std::min(start + kernel, size + pad);
    const int64_t end = std::min(padded_end, size), begin = std::min(std::max<int64_t>(start, 0), end);
    const int64_t values = p.count_include_pad ? padded_end - start : end - begin;
    a.windows.push_back({begin, end, p.divisor_override != 0 ? 1 : std::max<int64_t>(values, 1)});
  }
  return a;
}

// input_sizes (N, C, H, W).
inline WindowPool2dShape avg_pool2d_shape(const char* op, Sizes input_sizes, const AvgPool2dParameters& p) {
  check_4d(op, "input", input_sizes);
  check_pool_input(op, input_sizes);
  check_pool_window(op, p);
  WindowPool2dShape s{
      input_sizes[1],
      avg_pool_axis(op, "height", input_sizes[2], p.kernel_height, p.stride_h, p.pad_h, p),
      avg_pool_axis(op, "width", input_sizes[3], p.kernel_width, p.stride_w, p.pad_w, p),
  };
  if (p.divisor_override != 0) {
    for (PoolWindow& window : s.rows.windows) window.divisor = p.divisor_override;
  }
  element_count(op, std::array{input_sizes[0], s.channels, s.rows.out_size, s.columns.out_size});
  return s;
}

// Windows as even as can be that overlap where they must, as in ATen.
inline WindowAxis adaptive_pool_axis(int64_t size, int64_t out_size) {
  WindowAxis a{.size = size, .out_size = out_size};
  if (out_size > 0 && size % out_size == 0) a.kernel = a.stride = size / out_size;
  for (int64_t i = 0; i < out_size; ++i) {
    const int64_t begin = i * size / out_size, end = ((i + 1) * size + out_size - 1) / out_size;
    a.windows.push_back({begin, end, end - begin});
  }
  return a;
}

// input_sizes (N, C, H, W).
inline WindowPool2dShape adaptive_pool2d_shape(const char* op, Sizes input_sizes, int64_t out_height,
                                               int64_t out_width) {
  constexpr int64_t kLargestPlane = int64_t{1} << 24;  // its positions are exact in float32
  check_4d(op, "input", input_sizes);
  check_pool_input(op, input_sizes);
  check_parameter(op, "output height", out_height, 0);
  check_parameter(op, "output width", out_width, 0);
  if (multiply_sizes(op, input_sizes[2], input_sizes[3]) > kLargestPlane) {
    fail(op, ": an image of ", input_sizes[2], " x ", input_sizes[3], " has more than ", kLargestPlane,
         " positions");
  }
  element_count(op, std::array{input_sizes[0], input_sizes[1], out_height, out_width});
  return {input_sizes[1], adaptive_pool_axis(input_sizes[2], out_height),
          adaptive_pool_axis(input_sizes[3], out_width)};
}

}  // namespace lenet_ext
