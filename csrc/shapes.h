// Sizes of the operators and the checks of their arguments, shared by all backends. Nothing here knows torch.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>

namespace lenet_ext {

enum class Format { kContiguous, kChannelsLast };

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// For a value that names no element: Python makes an IndexError of it.
template <class... Parts>
[[noreturn]] void fail_index(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::out_of_range(text.str());
}

// The sizes of a tensor, or some of them.
using Sizes = std::span<const int64_t>;

inline std::string to_string(Sizes values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}

// a * b for sizes (>= 0); an error instead of an overflow.
inline int64_t multiply_sizes(const char* op, int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) fail(op, ": a size of ", a, " * ", b, " elements is too large");
  return product;
}

// Elements of a tensor of these sizes; an error where its bytes could not be addressed.
inline int64_t element_count(const char* op, Sizes sizes) {
  constexpr int64_t kLargestElement = 8;
  int64_t count = kLargestElement;
  for (int64_t size : sizes) {
    if (size < 0) fail(op, ": negative size in ", to_string(sizes));
    // A zero later in the list does not excuse an overflow before it: the other sizes are used by themselves.
    count = multiply_sizes(op, count, size > 0 ? size : 1);
  }
  count /= kLargestElement;
  for (int64_t size : sizes) count = size == 0 ? 0 : count;
  return count;
}

// An argument in pixels, in [least, kLargestParameter].
inline constexpr int64_t kLargestParameter = int64_t{1} << 30;
inline void check_parameter(const char* op, const char* name, int64_t value, int64_t least) {
  if (value < least) fail(op, ": ", name, " must be at least ", least, ", got ", value);
  if (value > kLargestParameter) fail(op, ": ", name, " is too large: ", value);
}

// The four-dimensional (N, C, H, W) arguments.
inline void check_4d(const char* op, const char* name, Sizes sizes) {
  if (sizes.size() != 4) fail(op, ": ", name, " must have 4 dimensions (N, C, H, W), got ", to_string(sizes));
}

struct Conv2dParameters {
  int64_t stride_h, stride_w;
  int64_t pad_top, pad_bottom, pad_left, pad_right;
  int64_t dilation_h, dilation_w;
  int64_t groups;

  bool operator==(const Conv2dParameters&) const = default;
};

struct Conv2dShape : Conv2dParameters {
  int64_t batch, in_channels, height, width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t out_height, out_width;

  bool operator==(const Conv2dShape&) const = default;

  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// input_sizes (N, C_in, H, W), weight_sizes (C_out, C_in / groups, KH, KW).
inline Conv2dShape conv2d_shape(const char* op, Sizes input_sizes, Sizes weight_sizes,
                                const Conv2dParameters& p) {
  check_4d(op, "input", input_sizes);
  check_4d(op, "weight", weight_sizes);
  check_parameter(op, "stride_h", p.stride_h, 1);
  check_parameter(op, "stride_w", p.stride_w, 1);
  check_parameter(op, "pad_top", p.pad_top, 0);
  check_parameter(op, "pad_bottom", p.pad_bottom, 0);
  check_parameter(op, "pad_left", p.pad_left, 0);
  check_parameter(op, "pad_right", p.pad_right, 0);
  check_parameter(op, "dilation_h", p.dilation_h, 1);
  check_parameter(op, "dilation_w", p.dilation_w, 1);
  element_count(op, input_sizes);
  element_count(op, weight_sizes);
  Conv2dShape s{};
  static_cast<Conv2dParameters&>(s) = p;
  s.batch = input_sizes[0], s.in_channels = input_sizes[1];
  s.height = input_sizes[2], s.width = input_sizes[3];
  s.out_channels = weight_sizes[0], s.kernel_height = weight_sizes[2], s.kernel_width = weight_sizes[3];
  if (s.groups < 1) fail(op, ": groups must be at least 1, got ", s.groups);
  if (s.out_channels % s.groups != 0) {
    fail(op, ": weight has ", s.out_channels, " output channels, which groups=", s.groups,
         " does not divide");
  }
  if (multiply_sizes(op, weight_sizes[1], s.groups) != s.in_channels) {
    fail(op, ": weight has ", weight_sizes[1], " input channels per group, but input has ", s.in_channels,
         " channels and groups=", s.groups);
  }
  if (s.kernel_height < 1 || s.kernel_width < 1) {
    fail(op, ": kernel size must be at least 1, got ", s.kernel_height, " x ", s.kernel_width);
  }
  const auto output_size = [&](const char* axis, int64_t size, int64_t pad, int64_t kernel, int64_t stride,
                               int64_t dilation) {
    const int64_t extent = multiply_sizes(op, dilation, kernel - 1);
    if (size > std::numeric_limits<int64_t>::max() - pad || size + pad <= extent) {
      fail(op, ": padded input ", axis, " ", size, " + ", pad, " is smaller than the kernel's ", extent,
           " + 1");
    }
    return (size + pad - extent - 1) / stride + 1;
  };
  s.out_height =
      output_size("height", s.height, s.pad_top + s.pad_bottom, s.kernel_height, s.stride_h, s.dilation_h);
  s.out_width =
      output_size("width", s.width, s.pad_left + s.pad_right, s.kernel_width, s.stride_w, s.dilation_w);
  element_count(op, std::array{s.batch, s.out_channels, s.out_height, s.out_width});
  return s;
}

struct MaxPool2dParameters {
  int64_t kernel_height, kernel_width;
  int64_t stride_h, stride_w;
  int64_t pad_h, pad_w;  // on both sides
  int64_t dilation_h, dilation_w;

  // The argmax, a position within a window, is stored as uint8_t, else as int32_t.
  bool byte_argmax() const {
    constexpr int64_t kMost = 256;
    return kernel_height <= kMost && kernel_width <= kMost && kernel_height * kernel_width <= kMost;
  }

  bool operator==(const MaxPool2dParameters&) const = default;
};

struct MaxPool2dShape : MaxPool2dParameters {
  int64_t batch, channels, height, width;
  int64_t out_height, out_width;

  bool operator==(const MaxPool2dShape&) const = default;

  int64_t planes() const { return batch * channels; }
};

// The image and the window of any pool.
template <class Parameters>
void check_pool_window(const char* op, const Parameters& p) {
  check_parameter(op, "kernel_height", p.kernel_height, 1);
  check_parameter(op, "kernel_width", p.kernel_width, 1);
  check_parameter(op, "stride_h", p.stride_h, 1);
  check_parameter(op, "stride_w", p.stride_w, 1);
  check_parameter(op, "pad_h", p.pad_h, 0);
  check_parameter(op, "pad_w", p.pad_w, 0);
}
inline void check_pool_input(const char* op, Sizes input_sizes) {
  element_count(op, input_sizes);
  for (int axis = 1; axis < 4; ++axis) {
    if (input_sizes[axis] == 0) fail(op, ": only the batch may be empty, got input ", to_string(input_sizes));
  }
}

// As in ATen: with ceil_mode a window may hang over the end, but not begin in the padding there.
inline int64_t max_pool_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                    int64_t dilation, bool ceil_mode) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  if (room < 0) return 0;
  const int64_t windows = room / stride + 1;
  return ceil_mode && (windows - 1) * stride >= size + pad ? windows - 1 : windows;
}

// input_sizes (N, C, H, W).
inline MaxPool2dShape max_pool2d_shape(const char* op, Sizes input_sizes, const MaxPool2dParameters& p,
                                       bool ceil_mode) {
  constexpr int64_t kLargestWindow = int64_t{1} << 24;  // its positions are exact in float32
  check_4d(op, "input", input_sizes);
  check_pool_window(op, p);
  check_parameter(op, "dilation_h", p.dilation_h, 1);
  check_parameter(op, "dilation_w", p.dilation_w, 1);
  check_pool_input(op, input_sizes);
  if (p.kernel_height * p.kernel_width > kLargestWindow) {
    fail(op, ": a kernel of ", p.kernel_height, " x ", p.kernel_width, " has more than ", kLargestWindow,
         " positions");
  }
  const auto output_size = [&](const char* axis, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                               int64_t dilation) {
    if (pad > kernel / 2) {
      fail(op, ": padding must be at most half of the kernel, got ", axis, " padding ", pad, ", kernel ",
           kernel, ", dilation ", dilation);
    }
    const int64_t windows = max_pool_output_size(size, kernel, stride, pad, dilation, ceil_mode);
    if (windows < 1) {
      fail(op, ": padded input ", axis, " ", size + 2 * pad, " is smaller than the dilated kernel's ",
           dilation * (kernel - 1) + 1);
    }
    return windows;
  };
  MaxPool2dShape s{};
  static_cast<MaxPool2dParameters&>(s) = p;
  s.batch = input_sizes[0], s.channels = input_sizes[1], s.height = input_sizes[2], s.width = input_sizes[3];
  s.out_height = output_size("height", s.height, p.kernel_height, p.stride_h, p.pad_h, p.dilation_h);
  s.out_width = output_size("width", s.width, p.kernel_width, p.stride_w, p.pad_w, p.dilation_w);
  element_count(op, std::array{s.batch, s.channels, s.out_height, s.out_width});
  return s;
}

struct LinearShape {
  int64_t rows, in_features, out_features;
  int64_t members = 1;  // as many products of these sizes, one after the other in all arrays

  int64_t input_elements() const { return rows * in_features; }
  int64_t weight_elements() const { return out_features * in_features; }
  int64_t output_elements() const { return rows * out_features; }

  bool operator==(const LinearShape&) const = default;
};

enum class Side { kInput, kOutput };

// weight_sizes (out, in); sizes (..., in) of an input, or (..., out) of an output.
inline LinearShape linear_shape(const char* op, const char* name, Sizes sizes, Sizes weight_sizes,
                                Side side) {
  if (weight_sizes.size() != 2)
    fail(op, ": weight must have 2 dimensions (out, in), got ", to_string(weight_sizes));
  if (sizes.empty()) fail(op, ": ", name, " must have at least 1 dimension");
  const int64_t wanted = weight_sizes[side == Side::kInput ? 1 : 0];
  if (sizes.back() != wanted) {
    fail(op, ": ", name, " ", to_string(sizes), " has ", sizes.back(),
         " features in its last dimension, but weight ", to_string(weight_sizes), " needs ", wanted);
  }
  LinearShape s{1, weight_sizes[1], weight_sizes[0]};
  for (size_t i = 0; i + 1 < sizes.size(); ++i) s.rows = multiply_sizes(op, s.rows, sizes[i]);
  element_count(op, weight_sizes);
  element_count(op, std::array{s.rows, s.in_features});
  element_count(op, std::array{s.rows, s.out_features});
  return s;
}

// The same, or with weight_sizes (members, out, in) and sizes (members, ..., in or out): a product for each
// member.
inline LinearShape stacked_linear_shape(const char* op, const char* name, Sizes sizes, Sizes weight_sizes,
                                        Side side) {
  if (weight_sizes.size() != 3) return linear_shape(op, name, sizes, weight_sizes, side);
  const int64_t members = weight_sizes[0];
  if (sizes.size() < 2 || sizes[0] != members) {
    fail(op, ": ", name, " must have ", members, " members in its first of 2 or more dimensions, as weight ",
         to_string(weight_sizes), " has, got ", to_string(sizes));
  }
  LinearShape s = linear_shape(op, name, sizes.subspan(1), weight_sizes.subspan(1), side);
  s.members = members;
  element_count(op, weight_sizes);
  element_count(op, std::array{members, s.rows, s.in_features});
  element_count(op, std::array{members, s.rows, s.out_features});
  return s;
}

}  // namespace lenet_ext
