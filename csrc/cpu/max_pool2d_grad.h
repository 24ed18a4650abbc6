// The gradient of max_pool2d: each window's gradient goes to the position of its maximum.
//
// Windows that tile the image (stride == kernel, no padding, no dilation) own their elements: each is written
// once, as the gradient or as zero. All others are summed in scan order, in the compute type. A tap that is
// no position of its window, or lies in the padding, is passed over: taps come from the caller and are not to
// be trusted.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/max_pool2d.h"

namespace lenet_ext::cpu {

inline bool windows_tile_image(const MaxPool2dShape& s) {
  return s.kernel_height == s.stride_h && s.kernel_width == s.stride_w && s.pad_h == 0 && s.pad_w == 0 &&
         s.dilation_h == 1 && s.dilation_w == 1;
}

// The input rows that output row oh owns where windows tile the image; the last one also those that no window
// reaches.
inline Span owned_rows(const MaxPool2dShape& s, int64_t oh) {
  return {oh * s.stride_h, oh + 1 == s.out_height ? s.height : (oh + 1) * s.stride_h};
}

template <class S, bool kFull, class Stored>
typename S::Vector load_first(const Stored* p, int n) {
  if constexpr (kFull) {
    return S::load(p);
  } else {
    return S::load_partial(p, n);
  }
}

template <class S, class Stored>
void store_two(Stored* p, typename S::Vector low, typename S::Vector high, int count) {
  constexpr int width = S::width;
  if (count >= width) {
    S::store(p, low);
  } else {
    S::store_partial(p, low, count);
  }
  if (count >= 2 * width) {
    S::store(p + width, high);
  } else if (count > width) {
    S::store_partial(p + width, high, count - width);
  }
}

// One output row of windows that tile the image and are two columns wide: the lanes are output columns.
template <class S, class Stored, class Tap>
void max_pool2d_grad_pairs(const MaxPool2dShape& s, int64_t oh, const Stored* grad_output, const Tap* taps,
                           Stored* plane) {
  const Span owned = owned_rows(s, oh);
  const int64_t kernel_rows = std::min(s.kernel_height, owned.end - owned.begin);
  const int64_t covered = std::min(2 * s.out_width, s.width);
  Stored* first_row = plane + owned.begin * s.width;
  const auto block = [&](auto full, int64_t ow, int n) {
    const typename S::Vector grad = load_first<S, full>(grad_output + ow, n);
    const typename S::Vector tap = load_taps<S>(taps + ow, full ? S::width : n);
    const int count = full ? 2 * S::width : static_cast<int>(covered - 2 * ow);
    for (int64_t kh = 0; kh < kernel_rows; ++kh) {
      const auto part = [&](int64_t kw) {
        return S::select(S::equal(tap, S::broadcast(static_cast<typename S::Scalar>(2 * kh + kw))), grad,
                         S::zero());
      };
      const typename S::Vector left = part(0), right = part(1);
      store_two<S>(first_row + kh * s.width + 2 * ow, S::interleave_low(left, right),
                   S::interleave_high(left, right), count);
    }
  };
  int64_t ow = 0;
  for (; 2 * (ow + S::width) <= covered; ow += S::width) block(std::true_type{}, ow, S::width);
  if (ow < s.out_width) block(std::false_type{}, ow, static_cast<int>(s.out_width - ow));
  for (int64_t kh = 0; kh < kernel_rows && covered < s.width; ++kh)
    first_row[(kh + 1) * s.width - 1] = Stored{};
  std::fill(first_row + kernel_rows * s.width, plane + owned.end * s.width, Stored{});
}

// Adds the gradients of one plane, in scan order.
template <class S, class Stored, class Tap>
void max_pool2d_grad_scatter(const MaxPool2dShape& s, const Stored* grad_output, const Tap* taps,
                             typename S::Scalar* sums) {
  const int64_t positions = s.kernel_height * s.kernel_width;
  for (int64_t oh = 0; oh < s.out_height; ++oh) {
    for (int64_t ow = 0; ow < s.out_width; ++ow) {
      const int64_t i = oh * s.out_width + ow, tap = taps[i];
      if (tap < 0 || tap >= positions) continue;
      const uint32_t kh = static_cast<uint32_t>(tap) / static_cast<uint32_t>(s.kernel_width);
      const int64_t kw = tap - kh * s.kernel_width;
      const int64_t h = oh * s.stride_h - s.pad_h + kh * s.dilation_h,
                    w = ow * s.stride_w - s.pad_w + kw * s.dilation_w;
      if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
      sums[h * s.width + w] += to_compute(grad_output[i]);
    }
  }
}

template <class S, class Stored, class Tap>
void max_pool2d_grad_contiguous(const MaxPool2dShape& s, const Stored* grad_output, const Tap* taps,
                                Stored* grad_input) {
  const int64_t in_plane = s.height * s.width, out_plane = s.out_height * s.out_width;
  if (windows_tile_image(s) && s.kernel_width == 2) {
    const int64_t cost = 20 + (s.width / S::width + 1) * s.kernel_height * 4;
    parallel_for(s.planes() * s.out_height, cost, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        max_pool2d_grad_pairs<S>(s, item % s.out_height, grad_output + item * s.out_width,
                                 taps + item * s.out_width, grad_input + item / s.out_height * in_plane);
      }
    });
    return;
  }
  parallel_for(s.planes(), in_plane / 4 + 10 * out_plane, [&](int64_t first, int64_t last) {
    // float32 and float64 are summed in place.
    constexpr bool kInPlace = std::is_same_v<Stored, typename S::Scalar>;
    std::vector<typename S::Scalar> scratch(kInPlace ? 0 : in_plane);
    for (int64_t plane = first; plane < last; ++plane) {
      Stored* out = grad_input + plane * in_plane;
      typename S::Scalar* sums;
      if constexpr (kInPlace) {
        sums = out;
      } else {
        sums = scratch.data();
      }
      std::fill(sums, sums + in_plane, typename S::Scalar(0));
      max_pool2d_grad_scatter<S>(s, grad_output + plane * out_plane, taps + plane * out_plane, sums);
      if constexpr (!kInPlace) {
        for (int64_t i = 0; i < in_plane; ++i) from_compute(sums[i], out[i]);
      }
    }
  });
}

// One output row (all channels) of windows that tile the image: the lanes are channels.
template <class S, class Stored, class Tap>
void max_pool2d_grad_tiles(const MaxPool2dShape& s, int64_t oh, const Stored* grad_output, const Tap* taps,
                           Stored* image) {
  const Span owned = owned_rows(s, oh);
  const int64_t kernel_rows = std::min(s.kernel_height, owned.end - owned.begin),
                row_size = s.width * s.channels;
  for (int64_t ow = 0; ow < s.out_width; ++ow) {
    const int64_t left = ow * s.stride_w, kernel_columns = std::min(s.kernel_width, s.width - left);
    Stored* corner = image + (owned.begin * s.width + left) * s.channels;
    const auto block = [&](auto full, int64_t c, int n) {
      const typename S::Vector grad = load_first<S, full>(grad_output + ow * s.channels + c, n);
      const typename S::Vector tap = load_taps<S>(taps + ow * s.channels + c, full ? S::width : n);
      for (int64_t kh = 0; kh < kernel_rows; ++kh) {
        for (int64_t kw = 0; kw < kernel_columns; ++kw) {
          const auto position = static_cast<typename S::Scalar>(kh * s.kernel_width + kw);
          const typename S::Vector part = S::select(S::equal(tap, S::broadcast(position)), grad, S::zero());
          Stored* p = corner + kh * row_size + kw * s.channels + c;
          if constexpr (full) {
            S::store(p, part);
          } else {
            S::store_partial(p, part, n);
          }
        }
      }
    };
    int64_t c = 0;
    for (; c + S::width <= s.channels; c += S::width) block(std::true_type{}, c, S::width);
    if (c < s.channels) block(std::false_type{}, c, static_cast<int>(s.channels - c));
  }
  const int64_t covered = std::min(s.out_width * s.stride_w, s.width);
  for (int64_t h = owned.begin; h < owned.begin + kernel_rows; ++h) {
    std::fill(image + h * row_size + covered * s.channels, image + (h + 1) * row_size, Stored{});
  }
  std::fill(image + (owned.begin + kernel_rows) * row_size, image + owned.end * row_size, Stored{});
}

// n channels of one image, from `grad_output`, `taps` and into `image`, which all begin at the first of these
// channels; sums: height * width vectors.
template <class S, class Stored, class Tap>
void max_pool2d_grad_channels(const MaxPool2dShape& s, const Stored* grad_output, const Tap* taps, int n,
                              Stored* image, typename S::Scalar* sums) {
  constexpr int width = S::width;
  std::fill(sums, sums + s.height * s.width * width, typename S::Scalar(0));
  for (int64_t oh = 0; oh < s.out_height; ++oh) {
    const int64_t top = oh * s.stride_h - s.pad_h;
    const Span rows = taps_inside(top, s.kernel_height, s.dilation_h, s.height);
    for (int64_t ow = 0; ow < s.out_width; ++ow) {
      const int64_t left = ow * s.stride_w - s.pad_w, offset = (oh * s.out_width + ow) * s.channels;
      const Span columns = taps_inside(left, s.kernel_width, s.dilation_w, s.width);
      const typename S::Vector grad = S::load_partial(grad_output + offset, n);
      const typename S::Vector tap = load_taps<S>(taps + offset, n);
      for (int64_t kh = rows.begin; kh < rows.end; ++kh) {
        for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
          const auto position = static_cast<typename S::Scalar>(kh * s.kernel_width + kw);
          typename S::Scalar* p =
              sums + ((top + kh * s.dilation_h) * s.width + left + kw * s.dilation_w) * width;
          S::store(p, S::add(S::load(p), S::select(S::equal(tap, S::broadcast(position)), grad, S::zero())));
        }
      }
    }
  }
  for (int64_t i = 0; i < s.height * s.width; ++i)
    S::store_partial(image + i * s.channels, S::load(sums + i * width), n);
}

template <class S, class Stored, class Tap>
void max_pool2d_grad_channels_last(const MaxPool2dShape& s, const Stored* grad_output, const Tap* taps,
                                   Stored* grad_input) {
  const int64_t in_image = s.height * s.width * s.channels, out_row = s.out_width * s.channels;
  const int64_t vectors = (s.channels + S::width - 1) / S::width, row_cost = window_cost(s, 1);
  if (windows_tile_image(s)) {
    parallel_for(s.batch * s.out_height, vectors * row_cost, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        max_pool2d_grad_tiles<S>(s, item % s.out_height, grad_output + item * out_row, taps + item * out_row,
                                 grad_input + item / s.out_height * in_image);
      }
    });
    return;
  }
  // One item of work is one vector of channels of one image.
  parallel_for(s.batch * vectors, s.out_height * row_cost, [&](int64_t first, int64_t last) {
    std::vector<typename S::Scalar> sums(s.height * s.width * S::width);
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / vectors, c = item % vectors * S::width;
      const int64_t offset = image * s.out_height * out_row + c;
      const int n = static_cast<int>(std::min<int64_t>(S::width, s.channels - c));
      max_pool2d_grad_channels<S>(s, grad_output + offset, taps + offset, n,
                                  grad_input + image * in_image + c, sums.data());
    }
  });
}

// Tensors dense in `format`; taps as max_pool2d wrote them, or anything.
template <class S, class Stored>
void max_pool2d_input_grad(const MaxPool2dShape& s, Format format, const Stored* grad_output,
                           const void* taps, Stored* grad_input) {
  with_tap_type(s, taps, [&](const auto* typed_taps) {
    if (format == Format::kChannelsLast) {
      max_pool2d_grad_channels_last<S>(s, grad_output, typed_taps, grad_input);
    } else {
      max_pool2d_grad_contiguous<S>(s, grad_output, typed_taps, grad_input);
    }
  });
}

}  // namespace lenet_ext::cpu
