// Depthwise convolutions, each output channel of which reads one input channel: forward and the two gradients of
// contiguous images, for kernels of 3x3 and 5x5 without dilation and with a stride of 1 or 2. Each plane is read
// where it lies, or as a copy in the compute type.
#pragma once

#include <type_traits>

#include "cpu/conv2d/depthwise_planes.h"
#include "cpu/conv2d/depthwise_transposed.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"
#include "shapes.h"

namespace lenet_ext::cpu {

inline bool is_depthwise(const Conv2dShape& s, Format format) {
  const bool square = s.kernel_height == s.kernel_width && s.stride_h == s.stride_w;
  return format == Format::kContiguous && s.groups > 1 && s.groups == s.in_channels && square &&
         (s.kernel_height == 3 || s.kernel_height == 5) && s.stride_h <= 2 && s.dilation_h == 1 &&
         s.dilation_w == 1;
}

inline PlaneGeometry plane_geometry(const Conv2dShape& s) {
  return {s.height, s.width, s.out_height, s.out_width, s.pad_top, s.pad_left, s.stride_h};
}

// The input gradient of a convolution with a stride of 1 is a convolution of the gradient with the kernel turned
// around.
inline PlaneGeometry turned_geometry(const Conv2dShape& s) {
  return {s.out_height,
          s.out_width,
          s.height,
          s.width,
          s.kernel_height - 1 - s.pad_top,
          s.kernel_width - 1 - s.pad_left,
          1};
}

// body(kernel size, stride), both as types of such a value.
template <class Body>
void with_depthwise_kernel(const Conv2dShape& s, const Body& body) {
  const auto with_stride = [&](auto taps) {
    if (s.stride_h == 1) {
      body(taps, std::integral_constant<int, 1>{});
    } else {
      body(taps, std::integral_constant<int, 2>{});
    }
  };
  if (s.kernel_height == 3) {
    with_stride(std::integral_constant<int, 3>{});
  } else {
    with_stride(std::integral_constant<int, 5>{});
  }
}

// Planes of a tensor in the compute type: those of a copy unless they are it already.
template <class S, class Stored>
class ComputedPlanes {
  using T = typename S::Scalar;
  static constexpr bool kStoredIsComputed = std::is_same_v<Stored, T>;

 public:
  explicit ComputedPlanes(int64_t most) : copy_(kStoredIsComputed ? 0 : most) {}

  // `count` planes, `stride` apart; valid until the next call. Their distance in what is returned: pitch().
  const T* read(const Stored* planes, int64_t count, int64_t stride, int64_t size) {
    if constexpr (kStoredIsComputed) {
      return planes;
    } else {
      for (int64_t i = 0; i < count; ++i) copy_row<S>(planes + i * stride, copy_.data() + i * size, size);
      return copy_.data();
    }
  }
  static int64_t pitch(int64_t stride, int64_t size) { return kStoredIsComputed ? stride : size; }

  // Where to write a plane, which finish() then brings to its place.
  T* target(Stored* plane) {
    if constexpr (kStoredIsComputed) {
      return plane;
    } else {
      return copy_.data();
    }
  }
  void finish(Stored* plane, int64_t size) {
    if constexpr (!kStoredIsComputed) copy_row<S>(copy_.data(), plane, size);
  }

 private:
  Scratch<T> copy_;
};

// Of images of planes: about the cycles of one of them.
template <class S>
int64_t depthwise_cost(const Conv2dShape& s) {
  const int64_t taps = s.kernel_height * s.kernel_width;
  return taps * s.out_height * (s.out_width + S::width / 2) / S::width + 50;
}

template <class S, class Stored>
class DepthwiseForward {
  using T = typename S::Scalar;

 public:
  explicit DepthwiseForward(const Conv2dShape& shape)
      : s_(shape),
        geometry_(plane_geometry(shape)),
        weights_(shape.out_channels * shape.kernel_height * shape.kernel_width),
        bias_(shape.out_channels) {
    with_depthwise_kernel(
        s_, [&](auto taps, auto stride) { strips_ = StripColumns<S, taps(), stride()>::strips(geometry_); });
  }

  // bias may be null.
  void set_weights(const Stored* weight, const Stored* bias) {
    copy_row<S>(weight, weights_.data(), s_.out_channels * s_.kernel_height * s_.kernel_width);
    if (bias == nullptr) {
      std::fill_n(bias_.data(), s_.out_channels, T(0));
    } else {
      copy_row<S>(bias, bias_.data(), s_.out_channels);
    }
  }

  void run(int64_t images, const Stored* input, Stored* output) const {
    const int64_t taps_of_plane = s_.kernel_height * s_.kernel_width, size = geometry_.size(),
                  out_size = geometry_.out_size();
    with_depthwise_kernel(s_, [&](auto taps, auto stride) {
      parallel_for(images * s_.out_channels, depthwise_cost<S>(s_), [&](int64_t begin, int64_t end) {
        ComputedPlanes<S, Stored> in(size), out(out_size);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t o = i % s_.out_channels;
          const T* const x = in.read(input + i / s_.group_out() * size, 1, size, size);
          DepthwisePlane<S, taps(), stride()>::forward(geometry_, strips_, x,
                                                       weights_.data() + o * taps_of_plane, bias_.data()[o],
                                                       false, out.target(output + i * out_size));
          out.finish(output + i * out_size, out_size);
        }
      });
    });
  }

 private:
  const Conv2dShape s_;
  const PlaneGeometry geometry_;
  std::vector<PlaneStrip> strips_;
  Scratch<T> weights_, bias_;
};

template <class S, class Stored>
class DepthwiseInputGrad {
  using T = typename S::Scalar;

 public:
  explicit DepthwiseInputGrad(const Conv2dShape& shape)
      : s_(shape),
        geometry_(shape.stride_h == 1 ? turned_geometry(shape) : plane_geometry(shape)),
        weights_(shape.out_channels * shape.kernel_height * shape.kernel_width),
        bias_(shape.in_channels) {
    with_depthwise_kernel(s_, [&](auto taps, auto stride) {
      strips_ = stride() == 1 ? StripColumns<S, taps(), 1>::strips(geometry_)
                              : DepthwiseTransposed<S, taps()>::strips(geometry_);
    });
  }

  // bias: of each input channel, to be added, or null.
  void set_weight(const Stored* weight, const Stored* bias) {
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    copy_row<S>(weight, weights_.data(), s_.out_channels * taps);
    for (int64_t o = 0; s_.stride_h == 1 && o < s_.out_channels; ++o) {
      std::reverse(weights_.data() + o * taps, weights_.data() + (o + 1) * taps);
    }
    if (bias == nullptr) {
      std::fill_n(bias_.data(), s_.in_channels, T(0));
    } else {
      copy_row<S>(bias, bias_.data(), s_.in_channels);
    }
  }

  void run(int64_t images, const Stored* grad_output, Stored* grad_input) const {
    with_depthwise_kernel(s_, [&](auto taps, auto stride) {
      constexpr int kTaps = taps();
      if constexpr (stride() == 1) {
        run_planes(images, grad_output, grad_input,
                   [&](const T* grad, const T* weight, T bias, bool add, T* to) {
                     DepthwisePlane<S, kTaps, 1>::forward(geometry_, strips_, grad, weight, bias, add, to);
                   });
      } else {
        run_planes(images, grad_output, grad_input,
                   [&](const T* grad, const T* weight, T bias, bool add, T* to) {
                     DepthwiseTransposed<S, kTaps>::run(geometry_, strips_, grad, weight, bias, add, to);
                   });
      }
    });
  }

 private:
  // plane_grad(gradient, weight, bias, add, to), of each output channel.
  template <class PlaneGrad>
  void run_planes(int64_t images, const Stored* grad_output, Stored* grad_input,
                  const PlaneGrad& plane_grad) const {
    const int64_t taps = s_.kernel_height * s_.kernel_width, multiplier = s_.group_out();
    const int64_t size = s_.height * s_.width, out_size = s_.out_height * s_.out_width;
    const int64_t cost = depthwise_cost<S>(s_) * multiplier * s_.stride_h;
    parallel_for(images * s_.in_channels, cost, [&](int64_t begin, int64_t end) {
      ComputedPlanes<S, Stored> grad(out_size), to(size);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t channel = i % s_.in_channels;
        for (int64_t m = 0; m < multiplier; ++m) {
          const T* const from =
              grad.read(grad_output + (i * multiplier + m) * out_size, 1, out_size, out_size);
          plane_grad(from, weights_.data() + (channel * multiplier + m) * taps,
                     m == 0 ? bias_.data()[channel] : T(0), m > 0, to.target(grad_input + i * size));
        }
        to.finish(grad_input + i * size, size);
      }
    });
  }

  const Conv2dShape s_;
  const PlaneGeometry geometry_;
  std::vector<PlaneStrip> strips_;
  Scratch<T> weights_, bias_;
};

}  // namespace lenet_ext::cpu
