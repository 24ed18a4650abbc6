// conv2d with stride 1, perhaps followed by a 2x2 max-pool, in the Winograd domain along the height: each of
// the points is a convolution along the rows alone, by the contract microkernel.
//
// A tile is the few output rows that one transformation yields. Tiles are done in blocks small enough for the
// first-level cache:
//
//   points   [point][channel][tile][padded width]   the transformed input
//   products [point][output channel][tile * padded width]   lanes = pixels, for few output channels
//            [tile][point][pixel][output channel]           lanes = output channels
//
// With pixels as lanes the tiles of a block form one flat run; the few products at the end of each row belong
// to no output. With channels as lanes the pool needs no shuffles.
#pragma once

#include <vector>

#include "cpu/conv2d/image.h"
#include "cpu/conv2d/winograd_rows.h"
#include "cpu/microkernels/contract.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class WinogradConv2d {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  static constexpr int kWidth = S::width;

 public:
  // Where it is the better way. In float32 the results are about as exact as the direct ones; float64 is left
  // to the direct way, for those who ask for every digit.
  static bool suits(const Conv2dShape& s) {
    constexpr int64_t kLeastTerms = 9;  // per point; with fewer the transformations cost more than is saved
    constexpr int64_t kLargest = int64_t{1} << 28;  // offsets are 32 bits wide
    const int64_t most = kLargest / std::max<int64_t>(s.in_channels, 1);
    if (s.width > most || s.pad_left > most || s.pad_right > most || s.out_channels > most / s.kernel_width) {
      return false;
    }
    return sizeof(T) == sizeof(float) && s.groups == 1 && s.stride_h == 1 && s.stride_w == 1 &&
           s.dilation_h == 1 && s.dilation_w == 1 && (s.kernel_height == 3 || s.kernel_height == 5) &&
           s.in_channels * s.kernel_width >= kLeastTerms && s.out_channels >= 4;
  }
  // Whether the pool that follows can be done in the same pass.
  static bool suits(const MaxPool2dShape& p) {
    return p.kernel_height == 2 && p.kernel_width == 2 && p.stride_h == 2 && p.stride_w == 2 &&
           p.pad_h == 0 && p.pad_w == 0 && p.dilation_h == 1 && p.dilation_w == 1 &&
           2 * p.out_height <= p.height && 2 * p.out_width <= p.width;
  }

  WinogradConv2d(const Conv2dShape& s, bool pooled)
      : s_(s),
        pooled_(pooled),
        rows_(pooled ? s.out_height / 2 * 2 : s.out_height),
        points_(best_points(s.kernel_height, rows_)),
        outputs_(points_ + 1 - s.kernel_height),
        tiles_((rows_ + outputs_ - 1) / outputs_),
        pitch_(s.width + s.pad_left + s.pad_right),
        terms_(s.in_channels * s.kernel_width),
        lanes_are_channels_(channel_vectors() * s.out_width <
                            s.out_channels * ((pitch_ + kWidth - 1) / kWidth)),
        vectors_(lanes_are_channels_ ? even_tile_vectors()
                                     : best_tile_vectors<S>(s.out_channels, kMaxVectors)),
        taps_per_step_(lanes_are_channels_ && vectors_ == 1 &&
                               ContractTiles<S>::has(static_cast<int>(s.kernel_width), 1)
                           ? s.kernel_width
                           : 1),
        channels_((s.out_channels + vectors_ * kWidth - 1) / (vectors_ * kWidth) * vectors_ * kWidth),
        block_tiles_(lanes_are_channels_ ? 1 : std::clamp<int64_t>(vectors_ * kWidth / pitch_, 1, tiles_)),
        plane_(block_tiles_ * pitch_),
        weights_(points_ * terms_ * channels_),
        bias_(2 * channels_) {
    const int64_t block = lanes_are_channels_ ? vectors_ * kWidth : channels_;
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t kw = 0; kw < s.kernel_width; kw += taps_per_step_) {
        const auto weight = static_cast<int32_t>((c * s.kernel_width + kw) * block);
        const auto value = static_cast<int32_t>(c * plane_ + kw);
        steps_.push_back(lanes_are_channels_ ? Step{value, weight} : Step{weight, value});
      }
    }
  }

  // weight: (O, C, KH, KW); bias: (O) or null.
  void set_weights(const T* weight, const T* bias) {
    std::fill_n(bias_.data(), 2 * channels_, T(0));
    if (bias != nullptr) std::copy_n(bias, s_.out_channels, bias_.data() + channels_);
    with_variant([&]<class W>() { transform_weights<W>(weight); });
  }

  // input (N, C, H, W); output (N, O, OH, OW), or with the pool (N, O, OH / 2, OW / 2) and taps alike; taps
  // may be null, and must be without the pool.
  void run(int64_t images, const T* input, T* output, uint8_t* taps) const {
    with_variant([&]<class W>() {
      taps == nullptr ? run_images<W, false>(images, input, output, taps)
                      : run_images<W, true>(images, input, output, taps);
    });
  }

 private:
  // With the fewest products for so many rows.
  static int64_t best_points(int64_t taps, int64_t rows) {
    return taps == 5 && (rows + 3) / 4 * 8 < (rows + 1) / 2 * 6 ? 8 : 6;
  }
  template <class Body>
  void with_variant(const Body& body) const {
    if (s_.kernel_height == 3) {
      body.template operator()<Winograd<S, 3, 6>>();
    } else if (points_ == 6) {
      body.template operator()<Winograd<S, 5, 6>>();
    } else {
      body.template operator()<Winograd<S, 5, 8>>();
    }
  }

  int64_t channel_vectors() const { return (s_.out_channels + kWidth - 1) / kWidth; }
  // Contract tiles of about equal size, since the last one is not smaller.
  int even_tile_vectors() const {
    const int64_t vectors = channel_vectors(), most = best_tile_vectors<S>(s_.out_width, vectors);
    const int64_t tiles = (vectors + most - 1) / most;
    return static_cast<int>((vectors + tiles - 1) / tiles);
  }
  // After the pool.
  int64_t out_rows() const { return pooled_ ? s_.out_height / 2 : s_.out_height; }
  int64_t out_columns() const { return pooled_ ? s_.out_width / 2 : s_.out_width; }
  int64_t out_pixels() const { return out_rows() * out_columns(); }
  template <class W>
  int64_t tile_rows() const {
    return W::kOutputs / (pooled_ ? 2 : 1);
  }
  int64_t points_size() const { return s_.in_channels * plane_; }
  // Of one point and the whole block, or with channels as lanes of one tile.
  int64_t products_size() const {
    return lanes_are_channels_ ? s_.out_width * channels_ : s_.out_channels * products_pitch();
  }
  int64_t products_pitch() const { return (plane_ + kWidth - 1) / kWidth * kWidth; }

  // To [point][block of channels][channel][kw][output channel of the block].
  template <class W>
  void transform_weights(const T* weight) {
    const int64_t depth = s_.in_channels * W::kTaps * s_.kernel_width;
    Scratch<T> by_channel(depth * channels_);
    std::fill_n(by_channel.data(), depth * channels_, T(0));
    transpose<S>(weight, depth, by_channel.data(), channels_, s_.out_channels, depth);
    const int64_t block = lanes_are_channels_ ? vectors_ * kWidth : channels_;
    const int64_t tap_step = s_.kernel_width * channels_;
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      for (int64_t kw = 0; kw < s_.kernel_width; ++kw) {
        const T* from = by_channel.data() + (c * W::kTaps * s_.kernel_width + kw) * channels_;
        for (int64_t o = 0; o < channels_; o += kWidth) {
          V g[W::kTaps], u[W::kPoints];
#pragma GCC unroll 8
          for (int i = 0; i < W::kTaps; ++i) g[i] = S::load(from + i * tap_step + o);
          W::transform_taps(g, u);
          T* const to = weights_.data() + (o / block * terms_ + c * s_.kernel_width + kw) * block + o % block;
#pragma GCC unroll 8
          for (int i = 0; i < W::kPoints; ++i) S::store(to + i * terms_ * channels_, u[i]);
        }
      }
    }
  }

  template <class W, bool kTap>
  void run_images(int64_t images, const T* input, T* output, uint8_t* taps) const {
    constexpr int64_t kBeyond = kMaxVectors * kWidth;  // whole tiles of vectors are read and written
    Scratch<T> points(points_ * points_size() + kBeyond), border(points_ * s_.width);
    Scratch<T> products(points_ * products_size() + kBeyond);
    // Results by pixel, then the taps of the pool, to be brought into planes.
    const int64_t results = lanes_are_channels_ ? out_pixels() * channels_ : 0;
    Scratch<T> by_pixel(kTap ? 2 * results : results);
    std::fill_n(points.data(), points_ * points_size() + kBeyond, T(0));  // the padding stays zero
    const int64_t in_size = s_.in_channels * s_.height * s_.width, out_size = s_.out_channels * out_pixels();
    for (int64_t n = 0; n < images; ++n) {
      const T* const x = input + n * in_size;
      T* const y = output + n * out_size;
      uint8_t* const tap = taps == nullptr ? nullptr : taps + n * out_size;
      if (n + 1 < images) prefetch(x + in_size, in_size * int64_t{sizeof(T)});
      for (int64_t tile = 0; tile < tiles_; tile += block_tiles_) {
        const int64_t count = std::min(block_tiles_, tiles_ - tile);
        transform_tiles<W>(x, tile, count, points.data(), border.data());
        multiply(points.data(), count, products.data());
        if (lanes_are_channels_) {
          finish_by_channel<W, kTap>(products.data(), tile, by_pixel.data(), by_pixel.data() + results);
        } else {
          finish_by_pixel<W, kTap>(products.data(), tile, count, y, tap);
        }
      }
      if (lanes_are_channels_) write_planes(by_pixel.data(), y, tap);
    }
  }

  // border: memory for the rows of a tile of which some lie outside of the image.
  template <class W>
  void transform_tiles(const T* image, int64_t tile, int64_t count, T* points, T* border) const {
    const int64_t height = s_.height, width = s_.width;
    for (int64_t c = 0; c < s_.in_channels; ++c, image += height * width) {
      T* to = points + c * plane_ + s_.pad_left;
      int64_t top = tile * outputs_ - s_.pad_top;
      for (int64_t t = 0; t < count; ++t, top += outputs_, to += pitch_) {
        const T* rows = image + top * width;
        if (top < 0 || top + W::kPoints > height) {
          for (int64_t i = 0; i < W::kPoints; ++i) {
            if (top + i < 0 || top + i >= height) {
              std::fill_n(border + i * width, width, T(0));
            } else {
              std::copy_n(rows + i * width, width, border + i * width);
            }
          }
          rows = border;
        }
        transform_rows<S, W>(rows, width, to, points_size());
      }
    }
  }

  void multiply(const T* points, int64_t count, T* products) const {
    const bool by_channel = lanes_are_channels_;
    const int64_t block = vectors_ * kWidth, last = by_channel ? channels_ : count * pitch_;
    for (int point = 0; point < points_; ++point) {
      const T *value = points + point * points_size(), *weight = weights_.data() + point * terms_ * channels_;
      Contraction<T> t{};
      t.a = by_channel ? value : weight, t.b = by_channel ? weight : value, t.a_stride = 1;
      t.b_vector_stride = t.c_vector_stride = t.last_lanes = kWidth, t.b_tap_stride = block;
      t.steps = steps_.data(), t.step_count = static_cast<int64_t>(steps_.size());
      t.init = bias_.data() + (point == 1 ? channels_ : 0);  // what a bias is added to: see winograd.h
      t.init_is_per_row = !by_channel, t.init_stride = by_channel ? 0 : 1;
      t.c = products + point * products_size(), t.c_stride = by_channel ? channels_ : products_pitch();
      for (int64_t i = 0; i < last; i += block) {
        const int64_t vectors = std::min<int64_t>(vectors_, (last - i + kWidth - 1) / kWidth);
        ContractTiles<S>::run(t, by_channel ? s_.out_width : s_.out_channels, static_cast<int>(vectors),
                              Partial::kNone, static_cast<int>(taps_per_step_));
        t.b += by_channel ? terms_ * block : block, t.c += block, t.init += by_channel ? block : 0;
      }
    }
  }

  template <class W, bool kTap>
  void finish_by_pixel(const T* products, int64_t tile, int64_t count, T* output, uint8_t* taps) const {
    const int64_t step = products_size(), rows = out_rows(), columns = out_columns();
    for (int64_t o = 0; o < s_.out_channels; ++o, products += products_pitch()) {
      for (int64_t t = 0; t < count; ++t) {
        const int64_t row = (tile + t) * tile_rows<W>(), left = std::min(tile_rows<W>(), rows - row);
        const int64_t place = (o * rows + row) * columns;
        if (pooled_) {
          pool_rows<S, W, kTap>(products + t * pitch_, step, left, columns, output + place,
                                kTap ? taps + place : nullptr);
        } else {
          write_rows<S, W>(products + t * pitch_, step, left, columns, output + place);
        }
      }
    }
  }

  template <class W, bool kTap>
  void finish_by_channel(const T* products, int64_t tile, T* by_pixel, T* tap_values) const {
    const int64_t step = products_size(), rows = out_rows(), columns = out_columns();
    const int64_t row = tile * tile_rows<W>(), left = std::min(tile_rows<W>(), rows - row);
    const int64_t place = row * columns * channels_;
    if (pooled_) {
      pool_pixels<S, W, kTap>(products, step, left, columns, channels_, by_pixel + place,
                              kTap ? tap_values + place : nullptr);
    } else {
      write_pixels<S, W>(products, step, left, columns * channels_, by_pixel + place);
    }
  }

  void write_planes(const T* by_pixel, T* output, uint8_t* taps) const {
    const int64_t pixels = out_pixels();
    transpose<S>(by_pixel, channels_, output, pixels, pixels, s_.out_channels);
    if (taps == nullptr) return;
    const int64_t count = pixels * s_.out_channels;
    Scratch<T> planes(count);
    transpose<S>(by_pixel + pixels * channels_, channels_, planes.data(), pixels, pixels, s_.out_channels);
    for (int64_t i = 0; i < count; i += kWidth) {
      const int n = static_cast<int>(std::min<int64_t>(kWidth, count - i));
      S::store_bytes(taps + i, S::load_partial(planes.data() + i, n), n);
    }
  }

  const Conv2dShape& s_;
  const bool pooled_;
  const int64_t rows_, points_, outputs_, tiles_;  // output rows that are needed; per tile; tiles
  const int64_t pitch_, terms_;                    // a padded row; products per point and output
  const bool lanes_are_channels_;
  const int vectors_;  // of a contract tile
  const int64_t taps_per_step_;
  const int64_t channels_;  // output channels, up to whole tiles
  const int64_t block_tiles_, plane_;
  std::vector<Step> steps_;
  Scratch<T> weights_, bias_;  // no bias, then the bias
};

}  // namespace lenet_ext::cpu
