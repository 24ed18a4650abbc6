// conv2d's weight and bias gradient:
//
//   grad_weight[o, c, ky, kx] =
//       sum over n, y, x of  grad_output[n, o, y, x] * input[n, c, y * sh + ky * dh - pad, ...]
//
// The batch is cut into a number of chunks that depends on the sizes only; each sums its images in order into
// an accumulator of its own, and these are added in order: the result is the same for every number of
// threads. One of two register layouts, chosen by estimated cost:
//
//   lanes = channels   grad_output as [pixel][output channel]. Kernels of 3 or 5 columns with stride 1: the
//                      input in its own format, kernel_rows microkernel. Others: input window channels-last,
//                      so that the taps (kx, c) of a pixel are one contiguous run; contract microkernel with
//                      pixels as steps, taps as rows.
//   lanes = pixels     both as padded planes; dot microkernel along the rows of pixels: for few channels,
//                      depthwise.
#pragma once

#include <type_traits>

#include "cpu/conv2d/weight_grad_plan.h"
#include "cpu/microkernels/kernel_rows.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class WeightGradient {
  using T = typename S::Scalar;
  using Layout = WeightGradientLayout;
  static constexpr int kWidth = S::width;

 public:
  WeightGradient(const Conv2dShape& shape, Format format)
      : s_(shape), format_(format), plan_(s_, format, std::is_same_v<T, Stored>) {}

  // The plan refers to the shape inside of this object.
  WeightGradient(const WeightGradient&) = delete;
  WeightGradient& operator=(const WeightGradient&) = delete;

  // Of the first `images` images of dense tensors. grad_bias may be null.
  void run(const Stored* grad_output, const Stored* input, int64_t images, Stored* grad_weight,
           Stored* grad_bias) const {
    const Tensors tensors{*this, grad_output, input};
    const int64_t outs = s_.out_channels, chunks = plan_.chunks(images);
    Scratch<T> sums(chunks * plan_.chunk_size);
    const auto cost =
        static_cast<int64_t>(plan_.image_cost * static_cast<double>(images) / static_cast<double>(chunks));
    parallel_for(chunks * s_.groups, cost, [&](int64_t begin, int64_t end) {
      Scratch<T> window(plan_.window_size + kMaxVectors * kWidth);
      Scratch<T> grads(plan_.grads_size + kMaxVectors * kWidth);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i / s_.groups, group = i % s_.groups;
        T* const chunk_sums = sums.data() + chunk * plan_.chunk_size;
        T* const weight_sums = chunk_sums + group * plan_.group_size;
        T* const bias_sums = chunk_sums + s_.groups * plan_.group_size + group * plan_.bias_size;
        std::fill_n(weight_sums, plan_.group_size, T(0));
        std::fill_n(bias_sums, plan_.bias_size, T(0));
        const int64_t last = (chunk + 1) * images / chunks;
        for (int64_t n = chunk * images / chunks; n < last; ++n) {
          const Part in = tensors.input_image(n, group), image = tensors.grad_image(n, group);
          if (n + 1 < last) tensors.prefetch_image(n + 1, group);
          for (int64_t row = 0; row < s_.out_height; row += plan_.block_rows) {
            const int64_t rows = std::min(plan_.block_rows, s_.out_height - row);
            if (plan_.layout == Layout::kKernelRows && s_.kernel_width == 3) {
              kernel_rows<3>(in, image, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else if (plan_.layout == Layout::kKernelRows) {
              kernel_rows<5>(in, image, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else if (plan_.layout == Layout::kChannels) {
              channels_as_lanes(in, image, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else {
              pixels_as_lanes(in, image, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            }
          }
        }
      }
    });
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_row<S>(sums.data() + chunk * plan_.chunk_size, sums.data(), plan_.chunk_size);
    }
    for (int64_t group = 0; group < s_.groups; ++group) {
      write_weights(sums.data() + group * plan_.group_size,
                    grad_weight + group * s_.group_out() * plan_.depth());
    }
    if (grad_bias == nullptr) return;
    for (int64_t o = 0; o < outs; ++o) {
      const int64_t group = o / s_.group_out(), channel = o % s_.group_out();
      const T* from = sums.data() + s_.groups * plan_.group_size + group * plan_.bias_size;
      from_compute(
          plan_.lanes_are_channels() ? from[channel] : S::reduce_add(S::load(from + channel * kWidth)),
          grad_bias[o]);
    }
  }

 private:
  using Part = Image<const Stored>;  // the channels of a group of an image

  struct Tensors {
    const WeightGradient& g;
    const Stored *grad_output, *input;

    Part input_image(int64_t n, int64_t group) const {
      const Conv2dShape& s = g.s_;
      return image_of(input, g.format_, s.in_channels, s.height, s.width, n, group * s.group_in(),
                      s.group_in());
    }
    Part grad_image(int64_t n, int64_t group) const {
      const Conv2dShape& s = g.s_;
      return image_of(grad_output, g.format_, s.out_channels, s.out_height, s.out_width, n,
                      group * s.group_out(), s.group_out());
    }
    void prefetch_image(int64_t n, int64_t group) const {
      for (const Part& image : {input_image(n, group), grad_image(n, group)}) {
        prefetch(image.data, image.channels * image.height * image.width * int64_t{sizeof(Stored)});
      }
    }
  };

  // weight_sums: [input channel][kernel row][kernel column][lanes]
  template <int kTaps>
  void kernel_rows(const Part& in, const Part& image, int64_t row, int64_t rows, T* window_memory,
                   T* grads_memory, T* weight_sums, T* bias_sums) const {
    const T *source = window_memory, *grads = grads_memory;
    int64_t step = 1, row_step = plan_.planes().columns, pixel_step = plan_.lanes;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (plan_.direct) source = in.at(0, row * s_.stride_h, 0);
      grads_direct = !image.planar() && plan_.lanes == image.channels;
      if (grads_direct) grads = image.at(0, row, 0), pixel_step = image.pixel_stride;
    }
    if (plan_.direct) {
      step = in.pixel_stride, row_step = s_.stride_h * in.row_stride;
    } else if (in.planar()) {
      pack_planar<S>(in, plan_.window(row), plan_.planes(), window_memory);
    } else {
      pack_channels_last<S>(in, plan_.window(row), window_memory);
      step = in.channels, row_step = s_.stride_h * plan_.window_width() * step;
    }
    if (!grads_direct) pack_pixels(image, row, rows, grads_memory);
    for (int64_t first = 0; first < plan_.lanes; first += kWidth) {
      KernelRowTiles<S, kTaps>::run({.a = source,
                                     .a_offset = plan_.columns.data(),
                                     .a_stride = step,
                                     .a_row_stride = row_step,
                                     .b = grads + first,
                                     .b_stride = pixel_step,
                                     .rows = rows,
                                     .columns = s_.out_width,
                                     .sums = weight_sums + first,
                                     .sums_stride = plan_.lanes},
                                    s_.group_in() * s_.kernel_height);
    }
    add_pixels(grads, pixel_step, rows * s_.out_width, bias_sums);
  }

  // sums[lane] += the gradients of all pixels
  void add_pixels(const T* grads, int64_t pixel_step, int64_t pixels, T* sums) const {
    for (int64_t first = 0; first < plan_.lanes; first += kWidth) {
      auto sum = S::load(sums + first);
      for (int64_t i = 0; i < pixels; ++i) sum = S::add(sum, S::load(grads + i * pixel_step + first));
      S::store(sums + first, sum);
    }
  }

  // weight_sums: [kernel row][kernel column][input channel][lanes]
  void channels_as_lanes(const Part& in, const Part& image, int64_t row, int64_t rows, T* window_memory,
                         T* grads, T* weight_sums, T* bias_sums) const {
    const int64_t ins = s_.group_in(), pixels = rows * s_.out_width;
    const T* window = window_memory;
    int64_t channel_stride = 1;
    if constexpr (std::is_same_v<T, Stored>) {
      if (plan_.pointwise) window = in.at(0, row, 0), channel_stride = in.channel_stride;
    }
    if (!plan_.pointwise) pack_channels_last<S>(in, plan_.window(row), window_memory);
    pack_pixels(image, row, rows, grads);
    const int64_t run = plan_.run_taps * ins;
    for (int64_t first = 0; first < plan_.lanes; first += plan_.tile_vectors * kWidth) {
      const auto count =
          static_cast<int>(std::min<int64_t>(plan_.tile_vectors, (plan_.lanes - first) / kWidth));
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < s_.kernel_width; x += plan_.run_taps) {
          const T* taps = window + (y * s_.dilation_h * plan_.window_width() + x * s_.dilation_w) * ins;
          T* sums = weight_sums + (y * s_.kernel_width + x) * ins * plan_.lanes + first;
          ContractTiles<S>::run({.a = taps,
                                 .a_stride = channel_stride,
                                 .b = grads + first,
                                 .b_vector_stride = kWidth,
                                 .steps = plan_.steps.data(),
                                 .step_count = pixels,
                                 .init = sums,
                                 .init_is_per_row = false,
                                 .init_stride = plan_.lanes,
                                 .c = sums,
                                 .c_stride = plan_.lanes,
                                 .c_vector_stride = kWidth,
                                 .last_lanes = kWidth},
                                run, count, Partial::kNone);
        }
      }
    }
    add_pixels(grads, plan_.lanes, pixels, bias_sums);
  }

  // [pixel][lanes], the lanes beyond the channels zero.
  void pack_pixels(const Part& image, int64_t row, int64_t rows, T* grads) const {
    const int64_t pixels = rows * image.width;
    if (plan_.lanes > image.channels) std::fill_n(grads, pixels * plan_.lanes, T(0));
    const Stored* from = image.at(0, row, 0);
    if (image.planar()) {
      transpose<S>(from, image.channel_stride, grads, plan_.lanes, image.channels, pixels);
    } else {
      for (int64_t i = 0; i < pixels; ++i)
        copy_row<S>(from + i * image.pixel_stride, grads + i * plan_.lanes, image.channels);
    }
  }

  // weight_sums: [output channel][input channel][kernel row][kernel column] vectors of partial sums
  void pixels_as_lanes(const Part& in, const Part& image, int64_t row, int64_t rows, T* window_memory,
                       T* grads_memory, T* weight_sums, T* bias_sums) const {
    const int64_t outs = s_.group_out(), pixels = rows * s_.out_width;
    const T *source = window_memory, *grads = grads_memory;
    int64_t plane = pixels, row_step = plan_.planes().columns;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (plan_.direct) source = in.at(0, row, 0), row_step = in.row_stride;
      grads_direct = image.planar();
      if (grads_direct) grads = image.at(0, row, 0), plane = image.channel_stride;
    }
    if (!plan_.direct) pack_planar<S>(in, plan_.window(row), plan_.planes(), window_memory);
    if (!grads_direct && image.planar()) {
      for (int64_t o = 0; o < outs; ++o) copy_row<S>(image.at(o, row, 0), grads_memory + o * plane, plane);
    } else if (!grads_direct) {
      transpose<S>(image.at(0, row, 0), image.pixel_stride, grads_memory, plane, plane, outs);
    }
    for (int64_t o = 0; o < outs; o += plan_.dot_rows) {
      const int tile_rows = static_cast<int>(std::min<int64_t>(plan_.dot_rows, outs - o));
      const int64_t most = max_columns<S>(tile_rows);
      for (int64_t j = 0; j < plan_.depth(); j += most) {
        const int tile_columns = static_cast<int>(std::min(most, plan_.depth() - j));
        DotTiles<S>::run({.a = grads + o * plane,
                          .a_stride = plane,
                          .b = source,
                          .b_offset = plan_.columns.data() + j,
                          .run_length = s_.out_width,
                          .run_count = rows,
                          .a_run_stride = s_.out_width,
                          .b_run_stride = row_step,
                          .sums = weight_sums + (o * plan_.depth() + j) * kWidth,
                          .sums_stride = plan_.depth() * kWidth},
                         tile_rows, tile_columns);
      }
    }
    for (int64_t o = 0; o < outs; ++o) {
      auto sum = S::load(bias_sums + o * kWidth);
      int64_t i = 0;
      for (; i + kWidth <= pixels; i += kWidth) sum = S::add(sum, S::load(grads + o * plane + i));
      sum = S::add(sum, S::load_partial(grads + o * plane + i, static_cast<int>(pixels - i)));
      S::store(bias_sums + o * kWidth, sum);
    }
  }

  void write_weights(const T* sums, Stored* grad_weight) const {
    const int64_t outs = s_.group_out(), ins = s_.group_in(), taps = s_.kernel_height * s_.kernel_width;
    if (plan_.layout == Layout::kPixels) {
      for (int64_t i = 0; i < outs * plan_.depth(); ++i) {
        from_compute(S::reduce_add(S::load(sums + i * kWidth)), grad_weight[i]);
      }
      return;
    }
    if (plan_.layout == Layout::kKernelRows) {
      return transpose<S>(sums, plan_.lanes, grad_weight, plan_.depth(), plan_.depth(), outs);
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t c = 0; c < ins; ++c) {
        copy_strided(sums + (tap * ins + c) * plan_.lanes, 1, grad_weight + c * taps + tap, plan_.depth(),
                     outs);
      }
    }
  }

  const Conv2dShape s_;
  const Format format_;
  const WeightGradientPlan<S> plan_;
};

}  // namespace lenet_ext::cpu
