// How an instruction set computes conv2d's weight gradient (weight_grad.h): the layout with the least
// estimated cost, the chunks of the batch, the sizes of all working memory, and what is where in it.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/conv2d/caller.h"
#include "cpu/conv2d/image.h"
#include "cpu/microkernels/contract.h"
#include "cpu/microkernels/dot.h"

namespace lenet_ext::cpu {

// See weight_grad.h.
enum class WeightGradientLayout { kKernelRows, kPlanes, kChannels, kPixels };

template <class S>
struct WeightGradientPlan {
  using T = typename S::Scalar;
  using Layout = WeightGradientLayout;
  static constexpr int kWidth = S::width;

  const Conv2dShape& shape;
  Layout layout;
  bool direct;             // the input is read where it lies
  int64_t chunk_images;    // at least, for a chunk to repay its sums
  int64_t product_images;  // summed at a time
  int64_t block_rows;  // rows of output pixels at a time, for the window to stay in the second-level cache
  double image_cost;   // estimated cycles of a group of an image
  int tile_vectors, dot_rows;
  int64_t run_taps;   // taps that are one run of memory: a kernel row, or with dilation a single tap
  int64_t lanes = 0;  // output channels, up to a whole vector; unless pixels are the lanes
  // Elements: the sums of a group and of its bias, of a chunk, the packed input and gradients of a block.
  int64_t group_size, bias_size, chunk_size, window_size, grads_size;
  std::vector<Step> steps;       // kPlanes and kChannels: of each pixel
  std::vector<int64_t> columns;  // else: the offset of each tap, or with kKernelRows of each kernel row

  WeightGradientPlan(const Conv2dShape& s, Format format, Caller caller, bool stored_is_computed) : shape(s) {
    const bool planar = format == Format::kContiguous;
    const bool padded = s.pad_top + s.pad_bottom + s.pad_left + s.pad_right > 0;
    choose_layout(planar, planar && stored_is_computed && !padded);
    choose_block_rows();
    choose_sizes();
    choose_images(caller);
    const bool pixels_follow = layout == Layout::kPixels && planar && s.stride_h == 1 && s.stride_w == 1;
    direct = stored_is_computed && !padded && (layout == Layout::kKernelRows || pixels_follow);
    if (layout == Layout::kPlanes) {
      make_steps(s.in_channels * s.height * s.width, s.width, 1);
    } else if (layout == Layout::kChannels) {
      make_steps(window_size, window_width() * s.group_in(), s.group_in());
    } else {
      make_columns(image_of<const T>(nullptr, format, s.in_channels, s.height, s.width, 0, 0, s.group_in()));
    }
  }

  // Of so many images: enough for many threads, few enough to keep their sums small.
  int64_t chunks(int64_t images) const {
    constexpr int64_t kMostChunks = 32, kMostChunkElements = 4 * 1024 * 1024;
    const int64_t most = std::max<int64_t>(kMostChunkElements / std::max<int64_t>(chunk_size, 1), 1);
    return std::max<int64_t>(std::min({images / chunk_images, kMostChunks, most}), 1);
  }
  bool lanes_are_channels() const { return layout != Layout::kPixels; }
  int64_t depth() const { return shape.group_in() * shape.kernel_height * shape.kernel_width; }
  int64_t window_width() const {
    return (shape.out_width - 1) * shape.stride_w + (shape.kernel_width - 1) * shape.dilation_w + 1;
  }
  Window window(int64_t row) const {
    return {row * shape.stride_h - shape.pad_top, -shape.pad_left, window_height(block_rows), window_width()};
  }
  PlanarLayout planes() const {
    return {window_height(block_rows), window_width(), shape.stride_h, shape.stride_w};
  }

 private:
  static int64_t vectors(int64_t count) { return (count + kWidth - 1) / kWidth; }
  int64_t window_height(int64_t rows) const {
    return (rows - 1) * shape.stride_h + (shape.kernel_height - 1) * shape.dilation_h + 1;
  }

  // planes_readable: by the kernel, where they lie.
  void choose_layout(bool planar, bool planes_readable) {
    const Conv2dShape& s = shape;
    const int64_t outs = s.group_out(), ins = s.group_in(), taps = s.kernel_height * s.kernel_width;
    const int64_t pixels = s.out_height * s.out_width;
    run_taps = s.dilation_w == 1 ? s.kernel_width : 1;
    const int64_t run = run_taps * ins, runs = taps / run_taps;
    tile_vectors = best_tile_vectors<S>(run, vectors(outs));
    dot_rows = best_dot_rows<S>(outs, taps * ins);
    constexpr double kTransposeCycles = 6;  // per vector
    const double window = static_cast<double>(s.height * s.width * ins) / kWidth;
    const double grads = static_cast<double>(pixels * vectors(outs));
    const bool rows_fit =
        (s.kernel_width == 3 || s.kernel_width == 5) && s.dilation_w == 1 && s.stride_w == 1;
    double channel_cost =
        rows_fit ? 0.5 * static_cast<double>(taps * ins * pixels * vectors(outs)) +
                       kTransposeCycles * (planar ? grads : 0)
                 : static_cast<double>(runs * pixels) * tiled_cost<S>(run, vectors(outs), tile_vectors) +
                       kTransposeCycles * (planar ? window + grads : 0);
    // The taps of a kernel row alone, whose pixels lie side by side in a plane.
    constexpr int64_t kLargestImage = int64_t{1} << 24;  // several in steps of 32 bits
    const int plane_vectors = best_tile_vectors<S>(s.kernel_width, vectors(outs));
    const double plane_cost = static_cast<double>(ins * s.kernel_height * pixels) *
                                  tiled_cost<S>(s.kernel_width, vectors(outs), plane_vectors) +
                              kTransposeCycles * grads;
    const bool planes = planes_readable && !rows_fit && plane_cost < channel_cost &&
                        s.in_channels * s.height * s.width <= kLargestImage;
    if (planes) channel_cost = plane_cost, tile_vectors = plane_vectors;
    // With a stride rows are short: a tile looks up the places of its columns anew for each, which takes about
    // as long as their arithmetic.
    constexpr double kCyclesPerRow = 16;
    const int64_t columns = std::max<int64_t>(max_columns<S>(dot_rows), 1);
    const int64_t tiles = ((outs + dot_rows - 1) / dot_rows) * ((depth() + columns - 1) / columns);
    const bool strided = s.stride_h > 1 || s.stride_w > 1;
    const double pixel_cost =
        static_cast<double>(s.out_height * vectors(s.out_width)) *
            tiled_dot_cost<S>(outs, taps * ins, dot_rows) +
        (strided ? kCyclesPerRow * static_cast<double>(s.out_height * tiles) : 0) +
        kTransposeCycles * (planar ? 0 : window + static_cast<double>(pixels * outs) / kWidth);
    // The partial sums of the pixel layout should stay in the second-level cache.
    constexpr int64_t kMostSums = 32 * 1024;
    const bool channels = channel_cost < pixel_cost || outs * depth() * kWidth > kMostSums;
    layout = !channels  ? Layout::kPixels
             : rows_fit ? Layout::kKernelRows
             : planes   ? Layout::kPlanes
                        : Layout::kChannels;
    image_cost = std::min(channel_cost, pixel_cost);
  }

  void choose_block_rows() {
    constexpr int64_t kWindowBytes = 256 * 1024, kLargestOffset = std::numeric_limits<int32_t>::max();
    block_rows = shape.out_height;
    const auto too_large = [&](int64_t rows) {
      const int64_t window = shape.group_in() * window_height(rows) * window_width();
      return window * int64_t{sizeof(T)} > kWindowBytes ||
             rows * shape.out_width * (shape.group_out() + kWidth) > kLargestOffset;
    };
    while (block_rows > 1 && too_large(block_rows)) block_rows = (block_rows + 1) / 2;
  }

  void choose_sizes() {
    const int64_t outs = shape.group_out(), ins = shape.group_in();
    if (lanes_are_channels()) {
      lanes = vectors(outs) * kWidth;
      group_size = depth() * lanes, bias_size = lanes;
      grads_size = block_rows * shape.out_width * lanes;
    } else {
      group_size = outs * depth() * kWidth, bias_size = outs * kWidth;
      grads_size = outs * block_rows * shape.out_width;
    }
    window_size =
        ins * (layout == Layout::kChannels ? window_height(block_rows) * window_width() : planes().plane());
    chunk_size = shape.groups * (group_size + bias_size);
  }

  void choose_images(Caller caller) {
    // The sums of a chunk are cleared, stored and added to the others. The engine gives threads images of
    // their own.
    constexpr double kCyclesPerVectorOfSums = 4;
    const double least = caller == Caller::kEngine ? 32 : 8;
    const double sums_cost = kCyclesPerVectorOfSums * static_cast<double>(chunk_size) / kWidth;
    const double image = std::max(image_cost * static_cast<double>(shape.groups), 1.0);
    chunk_images = static_cast<int64_t>(std::min(least * sums_cost / image, 1e6)) + 1;
    // Both factors of a product stay in the first two levels of the cache.
    constexpr int64_t kPixels = 128, kBytes = 256 * 1024;
    product_images = 1;
    if (layout == Layout::kPixels || block_rows < shape.out_height) return;
    const int64_t image_pixels = std::max<int64_t>(shape.out_height * shape.out_width, 1);
    const int64_t image_bytes = (window_size + grads_size) * int64_t{sizeof(T)};
    product_images =
        std::max<int64_t>(std::min(kPixels / image_pixels, kBytes / std::max<int64_t>(image_bytes, 1)), 1);
  }

  // The distances in the input of images, rows and pixels.
  void make_steps(int64_t image_step, int64_t row_step, int64_t pixel_step) {
    for (int64_t n = 0; n < product_images; ++n) {
      for (int64_t y = 0; y < block_rows; ++y) {
        for (int64_t x = 0; x < shape.out_width; ++x) {
          const int64_t pixel = y * shape.stride_h * row_step + x * shape.stride_w * pixel_step;
          steps.push_back({static_cast<int32_t>(n * image_step + pixel),
                           static_cast<int32_t>(static_cast<int64_t>(steps.size()) * lanes)});
        }
      }
    }
  }

  // image: for its strides.
  void make_columns(const Image<const T>& image) {
    const PlanarLayout planar = planes();
    const bool rows = layout == Layout::kKernelRows;
    for (int64_t c = 0; c < shape.group_in(); ++c) {
      for (int64_t y = 0; y < shape.kernel_height; ++y) {
        for (int64_t x = 0; x < (rows ? 1 : shape.kernel_width); ++x) {
          const int64_t down = y * shape.dilation_h, right = x * shape.dilation_w;
          columns.push_back(direct ? c * image.channel_stride + down * image.row_stride + right
                            : !rows || image.planar() ? planar.offset(c, down, right)
                                                      : down * window_width() * shape.group_in() + c);
        }
      }
    }
  }
};

}  // namespace lenet_ext::cpu
