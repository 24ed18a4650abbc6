// conv2d's weight and bias gradient:
//
//   grad_weight[o, c, ky, kx] =
//       sum over n, y, x of  grad_output[n, o, y, x] * input[n, c, y * sh + ky * dh - pad, ...]
//
// The batch is cut into a number of chunks that depends on the sizes only; each sums its images in order into
// an accumulator of its own, and these are added in order: the result is the same for every number of
// threads. The pixels of several small images are summed in one product, so that the accumulators are not
// loaded and stored for a few pixels each. One of two register layouts, chosen by estimated cost:
//
//   lanes = channels   grad_output as [pixel][output channel]. Kernels of 3 or 5 columns with stride 1: the
//                      input in its own format, kernel_rows microkernel. Others: contract microkernel with
//                      pixels as steps, taps as rows. These are the taps of a kernel row, read from planes where
//                      they lie, if that fills a tile; else the input window is channels-last, so that the taps
//                      (kx, c) of a pixel are one contiguous run.
//   lanes = pixels     both as padded planes; dot microkernel along the rows of pixels: for few channels,
//                      depthwise that depthwise.h does not take.
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
  WeightGradient(const Conv2dShape& shape, Format format, Caller caller)
      : s_(shape), format_(format), plan_(s_, format, caller, std::is_same_v<T, Stored>) {}

  // The plan refers to the shape inside of this object.
  WeightGradient(const WeightGradient&) = delete;
  WeightGradient& operator=(const WeightGradient&) = delete;

  // Of the first `images` images of dense tensors. grad_bias may be null.
  void run(const Stored* grad_output, const Stored* input, int64_t images, Stored* grad_weight,
           Stored* grad_bias) const {
    Scratch<T> sums(sums_size());
    std::fill_n(sums.data(), sums_size(), T(0));
    add(grad_output, input, images, sums.data());
    write(sums.data(), grad_weight, grad_bias);
  }

  // The same in two steps, for gradients that are summed over several calls: add() adds those of some images
  // to sums in a layout of this class, write() brings these into that of the weight.
  int64_t sums_size() const { return plan_.chunk_size; }
  void add(const Stored* grad_output, const Stored* input, int64_t images, T* sums) const {
    const int64_t chunks = plan_.chunks(images);
    Scratch<T> more((chunks - 1) * plan_.chunk_size);
    const auto cost =
        static_cast<int64_t>(plan_.image_cost * static_cast<double>(images) / static_cast<double>(chunks));
    parallel_for(chunks * s_.groups, cost, [&](int64_t begin, int64_t end) {
      Scratch<T> window(plan_.product_images * plan_.window_size + kMaxVectors * kWidth);
      Scratch<T> grads(plan_.product_images * plan_.grads_size + kMaxVectors * kWidth);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i / s_.groups, group = i % s_.groups;
        T* const chunk_sums = chunk == 0 ? sums : more.data() + (chunk - 1) * plan_.chunk_size;
        T* const weight_sums = chunk_sums + group * plan_.group_size;
        T* const bias_sums = chunk_sums + s_.groups * plan_.group_size + group * plan_.bias_size;
        if (chunk > 0) {
          std::fill_n(weight_sums, plan_.group_size, T(0));
          std::fill_n(bias_sums, plan_.bias_size, T(0));
        }
        const int64_t last = (chunk + 1) * images / chunks;
        for (int64_t n = chunk * images / chunks; n < last; n += plan_.product_images) {
          Product product{input_image(input, n, group),
                          grad_image(grad_output, n, group),
                          std::min(plan_.product_images, last - n),
                          0,
                          0,
                          window.data(),
                          grads.data(),
                          weight_sums,
                          bias_sums};
          if (n + plan_.product_images < last) {
            prefetch_image(input_image(input, n + plan_.product_images, group));
            prefetch_image(grad_image(grad_output, n + plan_.product_images, group));
          }
          for (; product.row < s_.out_height; product.row += product.rows) {
            product.rows = std::min(plan_.block_rows, s_.out_height - product.row);
            add_product(product);
          }
        }
      }
    });
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_row<S>(more.data() + (chunk - 1) * plan_.chunk_size, sums, plan_.chunk_size);
    }
  }
  // grad_bias may be null.
  void write(const T* sums, Stored* grad_weight, Stored* grad_bias) const {
    for (int64_t group = 0; group < s_.groups; ++group) {
      write_weights(sums + group * plan_.group_size, grad_weight + group * s_.group_out() * plan_.depth());
    }
    if (grad_bias == nullptr) return;
    for (int64_t o = 0; o < s_.out_channels; ++o) {
      const int64_t group = o / s_.group_out(), channel = o % s_.group_out();
      const T* from = sums + s_.groups * plan_.group_size + group * plan_.bias_size;
      from_compute(
          plan_.lanes_are_channels() ? from[channel] : S::reduce_add(S::load(from + channel * kWidth)),
          grad_bias[o]);
    }
  }

 private:
  using Part = Image<const Stored>;  // the channels of a group of an image

  // What is summed at a time: some rows of one image, or all rows of several that follow each other.
  struct Product {
    Part first_input, first_grads;
    int64_t images;
    int64_t row, rows;  // of grad_output
    T *window, *grads;  // memory for what has to be packed
    T *weight_sums, *bias_sums;
  };

  Part input_image(const Stored* input, int64_t n, int64_t group) const {
    return image_of(input, format_, s_.in_channels, s_.height, s_.width, n, group * s_.group_in(),
                    s_.group_in());
  }
  Part grad_image(const Stored* grad_output, int64_t n, int64_t group) const {
    return image_of(grad_output, format_, s_.out_channels, s_.out_height, s_.out_width, n,
                    group * s_.group_out(), s_.group_out());
  }
  static void prefetch_image(const Part& image) {
    prefetch(image.data, image.channels * image.height * image.width * int64_t{sizeof(Stored)});
  }
  int64_t input_size() const { return s_.in_channels * s_.height * s_.width; }
  static Part later(Part image, int64_t elements) {
    image.data += elements;
    return image;
  }

  void add_product(const Product& p) const {
    if (plan_.layout == Layout::kKernelRows && s_.kernel_width == 3) {
      kernel_rows<3>(p);
    } else if (plan_.layout == Layout::kKernelRows) {
      kernel_rows<5>(p);
    } else if (plan_.layout == Layout::kPlanes) {
      planes(p);
    } else if (plan_.layout == Layout::kChannels) {
      channels_as_lanes(p);
    } else {
      pixels_as_lanes(p);
    }
  }

  // weight_sums: [input channel][kernel row][kernel column][lanes]
  template <int kTaps>
  void kernel_rows(const Product& p) const {
    const Part &in = p.first_input, &image = p.first_grads;
    const T *source = p.window, *grads = p.grads;
    int64_t step = 1, row_step = plan_.planes().columns, image_step = plan_.window_size;
    int64_t pixel_step = plan_.lanes;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (plan_.direct) source = in.at(0, p.row * s_.stride_h, 0);
      grads_direct = !image.planar() && plan_.lanes == image.channels;
      if (grads_direct) grads = image.at(0, p.row, 0), pixel_step = image.pixel_stride;
    }
    if (plan_.direct) {
      step = in.pixel_stride, row_step = s_.stride_h * in.row_stride, image_step = input_size();
    } else if (in.planar()) {
      for (int64_t n = 0; n < p.images; ++n) {
        pack_planar<S>(later(in, n * input_size()), plan_.window(p.row), plan_.planes(),
                       p.window + n * plan_.window_size);
      }
    } else {
      pack_windows(p);
      step = in.channels, row_step = s_.stride_h * plan_.window_width() * step;
    }
    if (!grads_direct) pack_pixels(p);
    for (int64_t first = 0; first < plan_.lanes; first += kWidth) {
      KernelRowTiles<S, kTaps>::run({.a = source,
                                     .a_offset = plan_.columns.data(),
                                     .a_stride = step,
                                     .a_row_stride = row_step,
                                     .a_image_stride = image_step,
                                     .b = grads + first,
                                     .b_stride = pixel_step,
                                     .images = p.images,
                                     .rows = p.rows,
                                     .columns = s_.out_width,
                                     .sums = p.weight_sums + first,
                                     .sums_stride = plan_.lanes},
                                    s_.group_in() * s_.kernel_height);
    }
    add_pixels(grads, pixel_step, p.images * p.rows * s_.out_width, p.bias_sums);
  }

  // sums[lane] += the gradients of all pixels
  void add_pixels(const T* grads, int64_t pixel_step, int64_t pixels, T* sums) const {
    for (int64_t first = 0; first < plan_.lanes; first += kWidth) {
      auto sum = S::load(sums + first);
      for (int64_t i = 0; i < pixels; ++i) sum = S::add(sum, S::load(grads + i * pixel_step + first));
      S::store(sums + first, sum);
    }
  }

  // weight_sums: [input channel][kernel row][kernel column][lanes]
  void planes(const Product& p) const {
    if constexpr (std::is_same_v<T, Stored>) {
      pack_pixels(p);
      for (int64_t first = 0; first < plan_.lanes; first += plan_.tile_vectors * kWidth) {
        T* sums = p.weight_sums + first;
        for (int64_t c = 0; c < s_.group_in(); ++c) {
          for (int64_t y = 0; y < s_.kernel_height; ++y, sums += s_.kernel_width * plan_.lanes) {
            const T* const taps = p.first_input.at(c, p.row * s_.stride_h + y * s_.dilation_h, 0);
            add_taps(p, taps, s_.dilation_w, s_.kernel_width, first, sums);
          }
        }
      }
      add_pixels(p.grads, plan_.lanes, p.images * p.rows * s_.out_width, p.bias_sums);
    }
  }

  // A tile of vectors of output channels, from `first` on, for `count` taps.
  void add_taps(const Product& p, const T* taps, int64_t step, int64_t count, int64_t first, T* sums) const {
    const auto vectors =
        static_cast<int>(std::min<int64_t>(plan_.tile_vectors, (plan_.lanes - first) / kWidth));
    ContractTiles<S>::run({.a = taps,
                           .a_stride = step,
                           .b = p.grads + first,
                           .b_vector_stride = kWidth,
                           .steps = plan_.steps.data(),
                           .step_count = p.images * p.rows * s_.out_width,
                           .init = sums,
                           .init_is_per_row = false,
                           .init_stride = plan_.lanes,
                           .c = sums,
                           .c_stride = plan_.lanes,
                           .c_vector_stride = kWidth,
                           .last_lanes = kWidth},
                          count, vectors, Partial::kNone);
  }

  // weight_sums: [kernel row][kernel column][input channel][lanes]
  void channels_as_lanes(const Product& p) const {
    const int64_t ins = s_.group_in();
    pack_windows(p);
    pack_pixels(p);
    for (int64_t first = 0; first < plan_.lanes; first += plan_.tile_vectors * kWidth) {
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < s_.kernel_width; x += plan_.run_taps) {
          const T* taps = p.window + (y * s_.dilation_h * plan_.window_width() + x * s_.dilation_w) * ins;
          T* const sums = p.weight_sums + (y * s_.kernel_width + x) * ins * plan_.lanes + first;
          add_taps(p, taps, 1, plan_.run_taps * ins, first, sums);
        }
      }
    }
    add_pixels(p.grads, plan_.lanes, p.images * p.rows * s_.out_width, p.bias_sums);
  }

  // Channels-last.
  void pack_windows(const Product& p) const {
    for (int64_t n = 0; n < p.images; ++n) {
      pack_channels_last<S>(later(p.first_input, n * input_size()), plan_.window(p.row),
                            p.window + n * plan_.window_size);
    }
  }

  // [image][pixel][lanes], the lanes beyond the channels zero.
  void pack_pixels(const Product& p) const {
    const int64_t pixels = p.rows * s_.out_width;
    const Part& image = p.first_grads;
    if (plan_.lanes > image.channels) std::fill_n(p.grads, p.images * pixels * plan_.lanes, T(0));
    for (int64_t n = 0; n < p.images; ++n) {
      const Stored* from = image.at(0, p.row, 0) + n * s_.out_channels * s_.out_height * s_.out_width;
      T* const to = p.grads + n * pixels * plan_.lanes;
      if (image.planar()) {
        transpose<S>(from, image.channel_stride, to, plan_.lanes, image.channels, pixels);
      } else {
        for (int64_t i = 0; i < pixels; ++i)
          copy_row<S>(from + i * image.pixel_stride, to + i * plan_.lanes, image.channels);
      }
    }
  }

  // weight_sums: [output channel][input channel][kernel row][kernel column] vectors of partial sums
  void pixels_as_lanes(const Product& p) const {
    const Part &in = p.first_input, &image = p.first_grads;
    const int64_t outs = s_.group_out(), row = p.row, rows = p.rows, pixels = rows * s_.out_width;
    const T *source = p.window, *grads = p.grads;
    int64_t plane = pixels, row_step = plan_.planes().columns;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (plan_.direct) source = in.at(0, row, 0), row_step = in.row_stride;
      grads_direct = image.planar();
      if (grads_direct) grads = image.at(0, row, 0), plane = image.channel_stride;
    }
    if (!plan_.direct) pack_planar<S>(in, plan_.window(row), plan_.planes(), p.window);
    if (!grads_direct && image.planar()) {
      for (int64_t o = 0; o < outs; ++o) copy_row<S>(image.at(o, row, 0), p.grads + o * plane, plane);
    } else if (!grads_direct) {
      transpose<S>(image.at(0, row, 0), image.pixel_stride, p.grads, plane, plane, outs);
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
                          .sums = p.weight_sums + (o * plan_.depth() + j) * kWidth,
                          .sums_stride = plan_.depth() * kWidth},
                         tile_rows, tile_columns);
      }
    }
    for (int64_t o = 0; o < outs; ++o) {
      auto sum = S::load(p.bias_sums + o * kWidth);
      int64_t i = 0;
      for (; i + kWidth <= pixels; i += kWidth) sum = S::add(sum, S::load(grads + o * plane + i));
      sum = S::add(sum, S::load_partial(grads + o * plane + i, static_cast<int>(pixels - i)));
      S::store(p.bias_sums + o * kWidth, sum);
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
    if (plan_.layout != Layout::kChannels) {
      return transpose<S>(sums, plan_.lanes, grad_weight, plan_.depth(), plan_.depth(), outs);
    }
    // [tap][c][o] to [o][tap][c] to [o][c][tap], a vector of output channels at a time.
    Scratch<T> channels(kWidth * plan_.depth());
    for (int64_t first = 0; first < outs; first += kWidth) {
      const int64_t count = std::min<int64_t>(kWidth, outs - first);
      transpose<S>(sums + first, plan_.lanes, channels.data(), plan_.depth(), plan_.depth(), count);
      for (int64_t o = 0; o < count; ++o) {
        transpose<S>(channels.data() + o * plan_.depth(), ins, grad_weight + (first + o) * plan_.depth(),
                     taps, taps, ins);
      }
    }
  }

  const Conv2dShape s_;
  const Format format_;
  const WeightGradientPlan<S> plan_;
};

}  // namespace lenet_ext::cpu
