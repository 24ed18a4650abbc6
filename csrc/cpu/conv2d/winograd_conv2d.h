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
#include "cpu/conv2d/winograd_plan.h"
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
  // The weights are to be set before the first run.
  WinogradConv2d(const Conv2dShape& shape, bool pooled)
      : p_(shape, pooled), weights_(p_.points * p_.terms * p_.channels), bias_(2 * p_.channels) {}

  // weight: (O, C, KH, KW); bias: (O) or null.
  void set_weights(const T* weight, const T* bias) {
    std::fill_n(bias_.data(), 2 * p_.channels, T(0));
    if (bias != nullptr) std::copy_n(bias, s_.out_channels, bias_.data() + p_.channels);
    with_variant([&]<class W>() { transform_weights<W>(weight); });
  }

  // input (N, C, H, W); output (N, O, OH, OW), or with the pool (N, O, OH / 2, OW / 2) and argmax alike;
  // argmax may be null, and must be without the pool.
  void run(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    with_variant([&]<class W>() {
      argmax == nullptr ? run_images<W, false>(images, input, output, argmax)
                        : run_images<W, true>(images, input, output, argmax);
    });
  }

 private:
  template <class Body>
  void with_variant(const Body& body) const {
    if (s_.kernel_height == 3) {
      body.template operator()<Winograd<S, 3, 6>>();
    } else if (p_.points == 6) {
      body.template operator()<Winograd<S, 5, 6>>();
    } else {
      body.template operator()<Winograd<S, 5, 8>>();
    }
  }

  template <class W>
  int64_t tile_rows() const {
    return W::kOutputs / (p_.pooled ? 2 : 1);
  }

  // To [point][block of channels][channel][kw][output channel of the block].
  template <class W>
  void transform_weights(const T* weight) {
    const int64_t depth = s_.in_channels * W::kTaps * s_.kernel_width;
    Scratch<T> by_channel(depth * p_.channels);
    std::fill_n(by_channel.data(), depth * p_.channels, T(0));
    transpose<S>(weight, depth, by_channel.data(), p_.channels, s_.out_channels, depth);
    const int64_t block = p_.lanes_are_channels ? p_.tile_vectors * kWidth : p_.channels;
    const int64_t tap_step = s_.kernel_width * p_.channels;
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      for (int64_t kw = 0; kw < s_.kernel_width; ++kw) {
        const T* from = by_channel.data() + (c * W::kTaps * s_.kernel_width + kw) * p_.channels;
        for (int64_t o = 0; o < p_.channels; o += kWidth) {
          V g[W::kTaps], u[W::kPoints];
#pragma GCC unroll 8
          for (int i = 0; i < W::kTaps; ++i) g[i] = S::load(from + i * tap_step + o);
          W::transform_taps(g, u);
          T* const to =
              weights_.data() + (o / block * p_.terms + c * s_.kernel_width + kw) * block + o % block;
#pragma GCC unroll 8
          for (int i = 0; i < W::kPoints; ++i) S::store(to + i * p_.terms * p_.channels, u[i]);
        }
      }
    }
  }

  template <class W, bool kArgmax>
  void run_images(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    constexpr int64_t kBeyond = kMaxVectors * kWidth;  // whole tiles of vectors are read and written
    Scratch<T> points(p_.points * p_.points_size() + kBeyond), border(p_.points * s_.width);
    Scratch<T> products(p_.points * p_.products_size() + kBeyond);
    // Results by pixel, then the argmax of the pool, to be brought into planes.
    const int64_t results = p_.lanes_are_channels ? p_.out_pixels() * p_.channels : 0;
    Scratch<T> by_pixel(kArgmax ? 2 * results : results);
    std::fill_n(points.data(), p_.points * p_.points_size() + kBeyond, T(0));  // the padding stays zero
    const int64_t in_size = s_.in_channels * s_.height * s_.width,
                  out_size = s_.out_channels * p_.out_pixels();
    for (int64_t n = 0; n < images; ++n) {
      const T* const x = input + n * in_size;
      T* const y = output + n * out_size;
      uint8_t* const z = argmax == nullptr ? nullptr : argmax + n * out_size;
      if (n + 1 < images) prefetch(x + in_size, in_size * int64_t{sizeof(T)});
      for (int64_t tile = 0; tile < p_.tiles; tile += p_.block_tiles) {
        const int64_t count = std::min(p_.block_tiles, p_.tiles - tile);
        transform_tiles<W>(x, tile, count, points.data(), border.data());
        multiply(points.data(), count, products.data());
        if (p_.lanes_are_channels) {
          finish_by_channel<W, kArgmax>(products.data(), tile, by_pixel.data(), by_pixel.data() + results);
        } else {
          finish_by_pixel<W, kArgmax>(products.data(), tile, count, y, z);
        }
      }
      if (p_.lanes_are_channels) write_planes(by_pixel.data(), y, z);
    }
  }

  // border: memory for the rows of a tile of which some lie outside of the image.
  template <class W>
  void transform_tiles(const T* image, int64_t tile, int64_t count, T* points, T* border) const {
    const int64_t height = s_.height, width = s_.width;
    for (int64_t c = 0; c < s_.in_channels; ++c, image += height * width) {
      T* to = points + c * p_.plane + s_.pad_left;
      int64_t top = tile * p_.outputs - s_.pad_top;
      for (int64_t t = 0; t < count; ++t, top += p_.outputs, to += p_.pitch) {
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
        transform_rows<S, W>(rows, width, to, p_.points_size());
      }
    }
  }

  void multiply(const T* points, int64_t count, T* products) const {
    const bool by_channel = p_.lanes_are_channels;
    const int64_t block = p_.tile_vectors * kWidth, last = by_channel ? p_.channels : count * p_.pitch;
    for (int point = 0; point < p_.points; ++point) {
      const T *value = points + point * p_.points_size(),
              *weight = weights_.data() + point * p_.terms * p_.channels;
      Contraction<T> t{};
      t.a = by_channel ? value : weight, t.b = by_channel ? weight : value, t.a_stride = 1;
      t.b_vector_stride = t.c_vector_stride = t.last_lanes = kWidth, t.b_tap_stride = block;
      t.steps = p_.steps.data(), t.step_count = static_cast<int64_t>(p_.steps.size());
      t.init = bias_.data() + (point == 1 ? p_.channels : 0);  // what a bias is added to: see winograd.h
      t.init_is_per_row = !by_channel, t.init_stride = by_channel ? 0 : 1;
      t.c = products + point * p_.products_size(),
      t.c_stride = by_channel ? p_.channels : p_.products_pitch();
      for (int64_t i = 0; i < last; i += block) {
        const int64_t vectors = std::min<int64_t>(p_.tile_vectors, (last - i + kWidth - 1) / kWidth);
        ContractTiles<S>::run(t, by_channel ? s_.out_width : s_.out_channels, static_cast<int>(vectors),
                              Partial::kNone, static_cast<int>(p_.taps_per_step));
        t.b += by_channel ? p_.terms * block : block, t.c += block, t.init += by_channel ? block : 0;
      }
    }
  }

  template <class W, bool kArgmax>
  void finish_by_pixel(const T* products, int64_t tile, int64_t count, T* output, uint8_t* argmax) const {
    const int64_t step = p_.products_size(), rows = p_.out_rows(), columns = p_.out_columns();
    for (int64_t o = 0; o < s_.out_channels; ++o, products += p_.products_pitch()) {
      for (int64_t t = 0; t < count; ++t) {
        const int64_t row = (tile + t) * tile_rows<W>(), left = std::min(tile_rows<W>(), rows - row);
        const int64_t place = (o * rows + row) * columns;
        if (p_.pooled) {
          pool_rows<S, W, kArgmax>(products + t * p_.pitch, step, left, columns, output + place,
                                   kArgmax ? argmax + place : nullptr);
        } else {
          write_rows<S, W>(products + t * p_.pitch, step, left, columns, output + place);
        }
      }
    }
  }

  template <class W, bool kArgmax>
  void finish_by_channel(const T* products, int64_t tile, T* by_pixel, T* argmax_values) const {
    const int64_t step = p_.products_size(), rows = p_.out_rows(), columns = p_.out_columns();
    const int64_t row = tile * tile_rows<W>(), left = std::min(tile_rows<W>(), rows - row);
    const int64_t place = row * columns * p_.channels;
    if (p_.pooled) {
      pool_pixels<S, W, kArgmax>(products, step, left, columns, p_.channels, by_pixel + place,
                                 kArgmax ? argmax_values + place : nullptr);
    } else {
      write_pixels<S, W>(products, step, left, columns * p_.channels, by_pixel + place);
    }
  }

  void write_planes(const T* by_pixel, T* output, uint8_t* argmax) const {
    const int64_t pixels = p_.out_pixels();
    transpose<S>(by_pixel, p_.channels, output, pixels, pixels, s_.out_channels);
    if (argmax == nullptr) return;
    const int64_t count = pixels * s_.out_channels;
    Scratch<T> planes(count);
    transpose<S>(by_pixel + pixels * p_.channels, p_.channels, planes.data(), pixels, pixels,
                 s_.out_channels);
    for (int64_t i = 0; i < count; i += kWidth) {
      const int n = static_cast<int>(std::min<int64_t>(kWidth, count - i));
      S::store_bytes(argmax + i, S::load_partial(planes.data() + i, n), n);
    }
  }

  const WinogradPlan<S> p_;
  const Conv2dShape& s_ = p_.shape;
  Scratch<T> weights_, bias_;  // no bias, then the bias
};

}  // namespace lenet_ext::cpu
