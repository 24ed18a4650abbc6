// conv2d's weight and bias gradient:
//
//   grad_weight[o, c, ky, kx] = sum over n, y, x of  grad_output[n, o, y, x] * input[n, c, y * sh + ky * dh -
//   pad, ...]
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

#include "cpu/contract.h"
#include "cpu/dot.h"
#include "cpu/image.h"
#include "cpu/kernel_rows.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class WeightGradient {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;

 public:
  WeightGradient(const Conv2dShape& shape, Format format, const Stored* grad_output, const Stored* input)
      : s_(shape), format_(format), grad_output_(grad_output), input_(input) {
    choose();
  }

  // grad_bias may be null.
  void run(Stored* grad_weight, Stored* grad_bias) {
    const int64_t outs = s_.out_channels;
    Scratch<T> sums(chunks_ * chunk_size_);
    parallel_for(chunks_ * s_.groups, static_cast<int64_t>(chunk_cost_), [&](int64_t begin, int64_t end) {
      Scratch<T> window(window_size_ + kMaxVectors * kWidth), grads(grads_size_ + kMaxVectors * kWidth);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i / s_.groups, group = i % s_.groups;
        T* const chunk_sums = sums.data() + chunk * chunk_size_;
        T* const weight_sums = chunk_sums + group * group_size_;
        T* const bias_sums = chunk_sums + s_.groups * group_size_ + group * bias_size_;
        std::fill_n(weight_sums, group_size_, T(0));
        std::fill_n(bias_sums, bias_size_, T(0));
        const int64_t last = (chunk + 1) * s_.batch / chunks_;
        for (int64_t n = chunk * s_.batch / chunks_; n < last; ++n) {
          if (n + 1 < last) prefetch_image(n + 1, group);
          for (int64_t row = 0; row < s_.out_height; row += block_rows_) {
            const int64_t rows = std::min(block_rows_, s_.out_height - row);
            if (kernel_rows_ && s_.kernel_width == 3) {
              kernel_rows<3>(n, group, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else if (kernel_rows_) {
              kernel_rows<5>(n, group, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else if (lanes_are_channels_) {
              channels_as_lanes(n, group, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            } else {
              pixels_as_lanes(n, group, row, rows, window.data(), grads.data(), weight_sums, bias_sums);
            }
          }
        }
      }
    });
    const int64_t total = chunk_size_;
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      add_row<S>(sums.data() + chunk * chunk_size_, sums.data(), total);
    }
    for (int64_t group = 0; group < s_.groups; ++group) {
      write_weights(sums.data() + group * group_size_, grad_weight + group * s_.group_out() * depth());
    }
    if (grad_bias == nullptr) return;
    for (int64_t o = 0; o < outs; ++o) {
      const int64_t group = o / s_.group_out(), channel = o % s_.group_out();
      const T* from = sums.data() + s_.groups * group_size_ + group * bias_size_;
      from_compute(lanes_are_channels_ ? from[channel] : S::reduce_add(S::load(from + channel * kWidth)),
                   grad_bias[o]);
    }
  }

 private:
  int64_t depth() const { return s_.group_in() * s_.kernel_height * s_.kernel_width; }
  int64_t window_height(int64_t rows) const {
    return (rows - 1) * s_.stride_h + (s_.kernel_height - 1) * s_.dilation_h + 1;
  }
  int64_t window_width() const {
    return (s_.out_width - 1) * s_.stride_w + (s_.kernel_width - 1) * s_.dilation_w + 1;
  }
  PlanarLayout layout() const {
    return {window_height(block_rows_), window_width(), s_.stride_h, s_.stride_w};
  }
  static int64_t vectors(int64_t lanes) { return (lanes + kWidth - 1) / kWidth; }

  void choose() {
    const int64_t outs = s_.group_out(), ins = s_.group_in(), taps = s_.kernel_height * s_.kernel_width;
    const int64_t pixels = s_.out_height * s_.out_width;
    // Taps that are one run of memory: a kernel row, or with dilation a single tap.
    run_taps_ = s_.dilation_w == 1 ? s_.kernel_width : 1;
    const int64_t run = run_taps_ * ins, runs = taps / run_taps_;
    tile_vectors_ = best_tile_vectors<S>(run, vectors(outs));
    constexpr double kTransposeCycles = 6;  // per vector
    const double window = static_cast<double>(s_.height * s_.width * ins) / kWidth;
    const double grads = static_cast<double>(pixels * vectors(outs));
    const bool planar = format_ == Format::kContiguous;
    kernel_rows_ = (s_.kernel_width == 3 || s_.kernel_width == 5) && s_.dilation_w == 1 && s_.stride_w == 1;
    const double channel_cost =
        kernel_rows_ ? 0.5 * static_cast<double>(taps * ins * pixels * vectors(outs)) +
                           kTransposeCycles * (planar ? grads : 0)
                     : static_cast<double>(runs * pixels) * tiled_cost<S>(run, vectors(outs), tile_vectors_) +
                           kTransposeCycles * (planar ? window + grads : 0);
    dot_rows_ = best_dot_rows<S>(outs, taps * ins);
    const double pixel_cost =
        static_cast<double>(s_.out_height * vectors(s_.out_width)) *
            tiled_dot_cost<S>(outs, taps * ins, dot_rows_) +
        kTransposeCycles * (planar ? 0 : window + static_cast<double>(pixels * outs) / kWidth);
    constexpr int64_t kMostSums =
        32 * 1024;  // partial sums of the pixel layout should stay in the second-level cache
    lanes_are_channels_ = channel_cost < pixel_cost || outs * depth() * kWidth > kMostSums;
    kernel_rows_ = kernel_rows_ && lanes_are_channels_;

    block_rows_ = s_.out_height;
    constexpr int64_t kWindowBytes = 256 * 1024;
    while (block_rows_ > 1 &&
           ins * window_height(block_rows_) * window_width() * int64_t{sizeof(T)} > kWindowBytes) {
      block_rows_ = (block_rows_ + 1) / 2;
    }
    if (lanes_are_channels_) {
      lanes_ = vectors(outs) * kWidth;
      group_size_ = depth() * lanes_, bias_size_ = lanes_;
      window_size_ = ins * (kernel_rows_ ? layout().plane() : window_height(block_rows_) * window_width());
      grads_size_ = block_rows_ * s_.out_width * lanes_;
    } else {
      group_size_ = outs * depth() * kWidth, bias_size_ = outs * kWidth;
      window_size_ = ins * layout().plane();
      grads_size_ = outs * block_rows_ * s_.out_width;
    }
    chunk_size_ = s_.groups * (group_size_ + bias_size_);
    constexpr int64_t kMostChunks = 32, kMostChunkElements = 4 * 1024 * 1024;
    chunks_ = std::min({s_.batch, kMostChunks,
                        std::max<int64_t>(kMostChunkElements / std::max<int64_t>(chunk_size_, 1), 1)});
    chunks_ = std::max<int64_t>(chunks_, 1);
    chunk_cost_ =
        std::min(channel_cost, pixel_cost) * static_cast<double>(s_.batch) / static_cast<double>(chunks_);
    direct_ = (!lanes_are_channels_ || kernel_rows_) && std::is_same_v<T, Stored> &&
              s_.pad_top + s_.pad_bottom + s_.pad_left + s_.pad_right == 0 &&
              (kernel_rows_ || (planar && s_.stride_h == 1 && s_.stride_w == 1));
    if (lanes_are_channels_ && !kernel_rows_) {
      make_steps();
    } else {
      make_columns();
    }
  }

  void make_steps() {
    for (int64_t y = 0; y < block_rows_; ++y) {
      for (int64_t x = 0; x < s_.out_width; ++x) {
        const int64_t pixel = (y * s_.stride_h * window_width() + x * s_.stride_w) * s_.group_in();
        steps_.push_back({static_cast<int32_t>(pixel),
                          static_cast<int32_t>(static_cast<int64_t>(steps_.size()) * lanes_)});
      }
    }
  }

  // Of each tap, or with kernel_rows_ of the first tap of each row of the kernel.
  void make_columns() {
    const PlanarLayout planar = layout();
    const Image<const Stored> image = input_image(0, 0);
    const int64_t taps = kernel_rows_ ? 1 : s_.kernel_width;
    for (int64_t c = 0; c < s_.group_in(); ++c) {
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < taps; ++x) {
          const int64_t down = y * s_.dilation_h, right = x * s_.dilation_w;
          columns_.push_back(direct_ ? image.at(c, down, right) - image.data
                             : image.planar() || !kernel_rows_
                                 ? planar.offset(c, down, right)
                                 : (down * window_width() + right) * s_.group_in() + c);
        }
      }
    }
  }

  void prefetch_image(int64_t n, int64_t group) const {
    const auto bytes = [](const Image<const Stored>& image) {
      return image.channels * image.height * image.width * int64_t{sizeof(Stored)};
    };
    prefetch(input_image(n, group).data, bytes(input_image(n, group)));
    prefetch(grad_image(n, group).data, bytes(grad_image(n, group)));
  }
  Window window(int64_t row) const {
    return {row * s_.stride_h - s_.pad_top, -s_.pad_left, window_height(block_rows_), window_width()};
  }
  Image<const Stored> input_image(int64_t n, int64_t group) const {
    return image_of(input_, format_, s_.in_channels, s_.height, s_.width, n, group * s_.group_in(),
                    s_.group_in());
  }
  Image<const Stored> grad_image(int64_t n, int64_t group) const {
    return image_of(grad_output_, format_, s_.out_channels, s_.out_height, s_.out_width, n,
                    group * s_.group_out(), s_.group_out());
  }

  // weight_sums: [input channel][kernel row][kernel column][lanes_]
  template <int kTaps>
  void kernel_rows(int64_t n, int64_t group, int64_t row, int64_t rows, T* window_memory, T* grads_memory,
                   T* weight_sums, T* bias_sums) const {
    const Image<const Stored> in = input_image(n, group), image = grad_image(n, group);
    const T *source = window_memory, *grads = grads_memory;
    int64_t step = 1, row_step = layout().columns, pixel_step = lanes_;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (direct_) source = in.at(0, row * s_.stride_h, 0);
      grads_direct = !image.planar() && lanes_ == image.channels;
      if (grads_direct) grads = image.at(0, row, 0), pixel_step = image.pixel_stride;
    }
    if (direct_) {
      step = in.pixel_stride, row_step = s_.stride_h * in.row_stride;
    } else if (in.planar()) {
      pack_planar<S>(in, window(row), layout(), window_memory);
    } else {
      pack_channels_last<S>(in, window(row), window_memory);
      step = in.channels, row_step = s_.stride_h * window_width() * step;
    }
    if (!grads_direct) pack_pixels(image, row, rows, grads_memory);
    for (int64_t first = 0; first < lanes_; first += kWidth) {
      KernelRowTiles<S, kTaps>::run({source, columns_.data(), step, row_step, grads + first, pixel_step, rows,
                                     s_.out_width, weight_sums + first, lanes_},
                                    s_.group_in() * s_.kernel_height);
    }
    add_pixels(grads, pixel_step, rows * s_.out_width, bias_sums);
  }

  // sums[lane] += the gradients of all pixels
  void add_pixels(const T* grads, int64_t pixel_step, int64_t pixels, T* sums) const {
    for (int64_t first = 0; first < lanes_; first += kWidth) {
      auto sum = S::load(sums + first);
      for (int64_t i = 0; i < pixels; ++i) sum = S::add(sum, S::load(grads + i * pixel_step + first));
      S::store(sums + first, sum);
    }
  }

  // weight_sums: [kernel row][kernel column][input channel][lanes_]
  void channels_as_lanes(int64_t n, int64_t group, int64_t row, int64_t rows, T* window_memory, T* grads,
                         T* weight_sums, T* bias_sums) const {
    const int64_t ins = s_.group_in(), pixels = rows * s_.out_width;
    pack_channels_last<S>(input_image(n, group), window(row), window_memory);
    pack_pixels(grad_image(n, group), row, rows, grads);
    const int64_t run = run_taps_ * ins;
    for (int64_t first = 0; first < lanes_; first += tile_vectors_ * kWidth) {
      const auto count = static_cast<int>(std::min<int64_t>(tile_vectors_, (lanes_ - first) / kWidth));
      for (int64_t y = 0; y < s_.kernel_height; ++y) {
        for (int64_t x = 0; x < s_.kernel_width; x += run_taps_) {
          const T* taps = window_memory + (y * s_.dilation_h * window_width() + x * s_.dilation_w) * ins;
          T* sums = weight_sums + (y * s_.kernel_width + x) * ins * lanes_ + first;
          ContractTiles<S>::run({taps, 1, grads + first, kWidth, steps_.data(), pixels, sums, false, lanes_,
                                 sums, lanes_, kWidth, kWidth},
                                run, count, Partial::kNone);
        }
      }
    }
    add_pixels(grads, lanes_, pixels, bias_sums);
  }

  // [pixel][lanes_], the lanes beyond the channels zero.
  void pack_pixels(const Image<const Stored>& image, int64_t row, int64_t rows, T* grads) const {
    const int64_t pixels = rows * image.width;
    if (lanes_ > image.channels) std::fill_n(grads, pixels * lanes_, T(0));
    const Stored* from = image.at(0, row, 0);
    if (image.planar()) {
      transpose<S>(from, image.channel_stride, grads, lanes_, image.channels, pixels);
    } else {
      for (int64_t i = 0; i < pixels; ++i)
        copy_row<S>(from + i * image.pixel_stride, grads + i * lanes_, image.channels);
    }
  }

  // weight_sums: [output channel][input channel][kernel row][kernel column] vectors of partial sums
  void pixels_as_lanes(int64_t n, int64_t group, int64_t row, int64_t rows, T* window_memory, T* grads_memory,
                       T* weight_sums, T* bias_sums) const {
    const int64_t outs = s_.group_out(), pixels = rows * s_.out_width;
    const Image<const Stored> in = input_image(n, group), image = grad_image(n, group);
    const T *source = window_memory, *grads = grads_memory;
    int64_t plane = pixels, row_step = layout().columns;
    bool grads_direct = false;
    if constexpr (std::is_same_v<T, Stored>) {
      if (direct_) source = in.at(0, row, 0), row_step = in.row_stride;
      grads_direct = image.planar();
      if (grads_direct) grads = image.at(0, row, 0), plane = image.channel_stride;
    }
    if (!direct_) pack_planar<S>(in, window(row), layout(), window_memory);
    if (!grads_direct && image.planar()) {
      for (int64_t o = 0; o < outs; ++o) copy_row<S>(image.at(o, row, 0), grads_memory + o * plane, plane);
    } else if (!grads_direct) {
      transpose<S>(image.at(0, row, 0), image.pixel_stride, grads_memory, plane, plane, outs);
    }
    for (int64_t o = 0; o < outs; o += dot_rows_) {
      const int tile_rows = static_cast<int>(std::min<int64_t>(dot_rows_, outs - o));
      const int64_t most = max_columns<S>(tile_rows);
      for (int64_t j = 0; j < depth(); j += most) {
        const int tile_columns = static_cast<int>(std::min(most, depth() - j));
        DotTiles<S>::run({grads + o * plane, plane, source, columns_.data() + j, s_.out_width, rows,
                          s_.out_width, row_step, weight_sums + (o * depth() + j) * kWidth, depth() * kWidth},
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
    if (!lanes_are_channels_) {
      for (int64_t i = 0; i < outs * depth(); ++i) {
        from_compute(S::reduce_add(S::load(sums + i * kWidth)), grad_weight[i]);
      }
      return;
    }
    if (kernel_rows_) return transpose<S>(sums, lanes_, grad_weight, depth(), depth(), outs);
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t c = 0; c < ins; ++c) {
        copy_strided(sums + (tap * ins + c) * lanes_, 1, grad_weight + c * taps + tap, depth(), outs);
      }
    }
  }

  const Conv2dShape& s_;
  Format format_;
  const Stored *grad_output_, *input_;
  bool lanes_are_channels_, kernel_rows_;
  bool direct_;  // the input is read where it lies
  int tile_vectors_, dot_rows_;
  int64_t run_taps_, block_rows_, chunks_, lanes_ = 0;
  double chunk_cost_;
  int64_t group_size_, bias_size_, chunk_size_, window_size_, grads_size_;
  std::vector<Step> steps_;
  std::vector<int64_t> columns_;
};

template <class S, class Stored>
void conv2d_weight_grad(const Conv2dShape& shape, Format format, const Stored* grad_output,
                        const Stored* input, Stored* grad_weight, Stored* grad_bias) {
  WeightGradient<S, Stored>(shape, format, grad_output, input).run(grad_weight, grad_bias);
}

}  // namespace lenet_ext::cpu
