// The gradient of max_pool2d for contiguous tensors: see grad.h.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/max_pool2d/window.h"
#include "cpu/runtime/parallel.h"

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

// What the kernels for tiles of one range of work share. Full vectors are used for the rest of a row too,
// where they stay in the tensors that are read and in the part of grad_input that this range writes, as in
// contiguous.h: rows are written in order.
template <class Stored>
struct GradRange {
  const MaxPool2dShape& shape;
  const Stored* grad_output_end;  // of the tensor
  const Stored* grad_input_end;   // of this range
};

// One output row of windows that tile the image and are two columns wide: the lanes are output columns.
template <class S, class Stored, class Index>
void max_pool2d_grad_pairs(const GradRange<Stored>& range, int64_t oh, const Stored* grad_output,
                           const Index* argmax, Stored* plane) {
  const MaxPool2dShape& s = range.shape;
  const Span owned = owned_rows(s, oh);
  const int64_t kernel_rows = std::min(s.kernel_height, owned.end - owned.begin);
  const int64_t covered = std::min(2 * s.out_width, s.width);
  for (int64_t kh = 0; kh < kernel_rows; ++kh) {
    const auto left_tap = S::broadcast(static_cast<typename S::Scalar>(2 * kh));
    const auto right_tap = S::broadcast(static_cast<typename S::Scalar>(2 * kh + 1));
    Stored* row = plane + (owned.begin + kh) * s.width;
    const auto block = [&](auto full, int64_t ow, int n) {
      const typename S::Vector grad = load_first<S, full>(grad_output + ow, n);
      const typename S::Vector best = load_argmax<S>(argmax + ow, full ? S::width : n);
      const typename S::Vector left = S::select(S::equal(best, left_tap), grad, S::zero());
      const typename S::Vector right = S::select(S::equal(best, right_tap), grad, S::zero());
      const int count = static_cast<int>(std::min<int64_t>(2 * S::width, covered - 2 * ow));
      store_first<S, full>(row + 2 * ow, S::interleave_low(left, right), std::min(count, S::width));
      if (count > S::width) {
        store_first<S, full>(row + 2 * ow + S::width, S::interleave_high(left, right), count - S::width);
      }
    };
    for (int64_t ow = 0; ow < s.out_width; ow += S::width) {
      if (range.grad_output_end - (grad_output + ow) >= S::width &&
          range.grad_input_end - (row + 2 * ow) >= 2 * S::width) {
        block(std::true_type{}, ow, S::width);
      } else {
        block(std::false_type{}, ow, static_cast<int>(std::min<int64_t>(S::width, s.out_width - ow)));
      }
    }
    if (covered < s.width) row[covered] = Stored{};
  }
  if (owned.begin + kernel_rows < owned.end) {
    std::fill(plane + (owned.begin + kernel_rows) * s.width, plane + owned.end * s.width, Stored{});
  }
}

// Where a maximum lies in relation to the corner of its window. Dividing by the kernel's width is slow, so
// that the places of every argmax of one byte are noted.
class ArgmaxPlaces {
 public:
  struct Place {
    int64_t h, w;
  };

  explicit ArgmaxPlaces(const MaxPool2dShape& s) : s_(s) {
    if (s.byte_argmax()) {
      for (int argmax = 0; argmax < 256; ++argmax) places_[argmax] = (*this)(int32_t{argmax});
    }
  }

  Place operator()(uint8_t argmax) const { return places_[argmax]; }
  Place operator()(int32_t argmax) const {
    constexpr int64_t kOutside = std::numeric_limits<int64_t>::min() / 2;
    if (argmax < 0 || argmax >= s_.kernel_height * s_.kernel_width) return {kOutside, kOutside};
    return {argmax / s_.kernel_width * s_.dilation_h, argmax % s_.kernel_width * s_.dilation_w};
  }

 private:
  const MaxPool2dShape& s_;
  Place places_[256];
};

// Adds the gradients of one plane, in scan order.
template <class S, class Stored, class Index>
void max_pool2d_grad_scatter(const MaxPool2dShape& s, const ArgmaxPlaces& places, const Stored* grad_output,
                             const Index* argmax, typename S::Scalar* sums) {
  for (int64_t oh = 0; oh < s.out_height; ++oh) {
    for (int64_t ow = 0; ow < s.out_width; ++ow) {
      const int64_t i = oh * s.out_width + ow;
      const ArgmaxPlaces::Place place = places(argmax[i]);
      const int64_t h = oh * s.stride_h - s.pad_h + place.h, w = ow * s.stride_w - s.pad_w + place.w;
      if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
      sums[h * s.width + w] += to_compute(grad_output[i]);
    }
  }
}

template <class S, class Stored, class Index>
void max_pool2d_grad_all_pairs(const MaxPool2dShape& shape, const Stored* grad_output, const Index* argmax,
                               Stored* grad_input) {
  const MaxPool2dShape s = stack_planes(shape);
  const int64_t in_plane = s.height * s.width, cost = 20 + (s.width / S::width + 1) * s.kernel_height * 4;
  // One item of work is one output row.
  parallel_for(s.planes() * s.out_height, cost, [&](int64_t item, int64_t last) {
    const int64_t last_plane = (last - 1) / s.out_height,
                  last_row = owned_rows(s, (last - 1) % s.out_height).end;
    const GradRange<Stored> range{s, grad_output + s.planes() * s.out_height * s.out_width,
                                  grad_input + last_plane * in_plane + last_row * s.width};
    while (item < last) {
      Stored* plane = grad_input + item / s.out_height * in_plane;
      for (int64_t oh = item % s.out_height; oh < s.out_height && item < last; ++oh, ++item) {
        max_pool2d_grad_pairs<S>(range, oh, grad_output + item * s.out_width, argmax + item * s.out_width,
                                 plane);
      }
    }
  });
}

template <class S, class Stored, class Index>
void max_pool2d_grad_contiguous(const MaxPool2dShape& s, const Stored* grad_output, const Index* argmax,
                                Stored* grad_input) {
  if (windows_tile_image(s) && s.kernel_width == 2) {
    max_pool2d_grad_all_pairs<S>(s, grad_output, argmax, grad_input);
    return;
  }
  const int64_t in_plane = s.height * s.width, out_plane = s.out_height * s.out_width;
  const ArgmaxPlaces places(s);
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
      max_pool2d_grad_scatter<S>(s, places, grad_output + plane * out_plane, argmax + plane * out_plane,
                                 sums);
      if constexpr (!kInPlace) {
        for (int64_t i = 0; i < in_plane; ++i) from_compute(sums[i], out[i]);
      }
    }
  });
}

}  // namespace lenet_ext::cpu
