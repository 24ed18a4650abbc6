// The weight and bias gradient of a depthwise convolution: products of shifted rows, summed over the images of a
// chunk in registers. How many images make a chunk is fixed, and chunks are added in order, so the result is the
// same for every number of threads.
#pragma once

#include "cpu/conv2d/depthwise.h"
#include "cpu/microkernels/lanes.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class DepthwiseWeightGrad {
  using T = typename S::Scalar;
  using Planes = ComputedPlanes<S, Stored>;
  static constexpr int64_t kChunk = 8;  // images

 public:
  explicit DepthwiseWeightGrad(const Conv2dShape& shape) : s_(shape), geometry_(plane_geometry(shape)) {
    with_depthwise_kernel(
        s_, [&](auto taps, auto stride) { strips_ = StripColumns<S, taps(), stride()>::strips(geometry_); });
  }

  // grad_bias may be null.
  void run(const Stored* grad_output, const Stored* input, int64_t images, Stored* grad_weight,
           Stored* grad_bias) const {
    Scratch<T> sums(sums_size());
    std::fill_n(sums.data(), sums_size(), T(0));
    add(grad_output, input, images, sums.data());
    write(sums.data(), grad_weight, grad_bias);
  }

  // The same in two steps, as WeightGradient has them. sums: of each channel its taps, then the bias.
  int64_t sums_size() const { return s_.out_channels * sums_of_channel(); }
  void add(const Stored* grad_output, const Stored* input, int64_t images, T* sums) const {
    const int64_t chunks = std::max<int64_t>((images + kChunk - 1) / kChunk, 1), outs = s_.out_channels;
    Scratch<T> parts(chunks * sums_size());
    std::fill_n(parts.data(), chunks * sums_size(), T(0));
    with_depthwise_kernel(s_, [&](auto kernel, auto stride) {
      parallel_for(chunks * outs, kChunk * depthwise_cost<S>(s_), [&](int64_t begin, int64_t end) {
        const int64_t copied = std::min(images, kChunk);
        Planes in(copied * geometry_.size()), grad(copied * geometry_.out_size());
        for (int64_t i = begin; i < end; ++i) {
          add_channel<kernel(), stride()>(grad_output, input, i / outs * kChunk, images, i % outs, in, grad,
                                          parts.data() + i * sums_of_channel());
        }
      });
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      add_row<S>(parts.data() + chunk * sums_size(), sums, sums_size());
    }
  }
  // grad_bias may be null.
  void write(const T* sums, Stored* grad_weight, Stored* grad_bias) const {
    const int64_t taps = sums_of_channel() - 1;
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      const T* const from = sums + o * sums_of_channel();
      copy_row<S>(from, grad_weight + o * taps, taps);
      if (grad_bias != nullptr) from_compute(from[taps], grad_bias[o]);
    }
  }

 private:
  int64_t sums_of_channel() const { return s_.kernel_height * s_.kernel_width + 1; }

  // Of images from `first` on, a chunk of them.
  template <int kTaps, int kStride>
  void add_channel(const Stored* grad_output, const Stored* input, int64_t first, int64_t images,
                   int64_t channel, Planes& in, Planes& grad, T* sums) const {
    const int64_t count = std::min(images - first, kChunk), size = geometry_.size(),
                  out_size = geometry_.out_size();
    const int64_t image = s_.in_channels * size, out_image = s_.out_channels * out_size;
    const T* const x = in.read(input + first * image + channel / s_.group_out() * size, count, image, size);
    const T* const gradient =
        grad.read(grad_output + first * out_image + channel * out_size, count, out_image, out_size);
    const int64_t pitch = Planes::pitch(image, size), out_pitch = Planes::pitch(out_image, out_size);
    DepthwisePlane<S, kTaps, kStride>::weight_grad(geometry_, strips_, count, x, pitch, gradient, out_pitch,
                                                   sums);
    auto sum = S::zero();
    for (int64_t n = 0; n < count; ++n) {
      for_each_lanes<S>(out_size, [&](int64_t i, const auto& load, const auto&) {
        sum = S::add(sum, load(gradient + n * out_pitch + i));
      });
    }
    sums[kTaps * kTaps] = S::reduce_add(sum);
  }

  const Conv2dShape s_;
  const PlaneGeometry geometry_;
  std::vector<PlaneStrip> strips_;
};

}  // namespace lenet_ext::cpu
