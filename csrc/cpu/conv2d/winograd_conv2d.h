// conv2d, perhaps followed by a 2x2 max-pool, in the Winograd domain along the height: each of the points is a
// convolution along the rows alone, by the contract microkernel. With a stride the rows of a phase (modulo the stride)
// are a channel of their own, among which the stride is 1 and the kernel has two rows.
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

#include <limits>
#include <vector>

#include "cpu/conv2d/image.h"
#include "cpu/conv2d/winograd_guard.h"
#include "cpu/conv2d/winograd_plan.h"
#include "cpu/conv2d/winograd_planes.h"
#include "cpu/conv2d/winograd_rows.h"
#include "cpu/conv2d/winograd_weights.h"
#include "cpu/microkernels/contract.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

template <class S>
class WinogradConv2d {
  using T = typename S::Scalar;
  static constexpr int kWidth = S::width;

 public:
  // The weights are to be set before the first run.
  WinogradConv2d(const Conv2dShape& shape, bool pooled) : p_(shape, pooled), weights_(p_) {}

  // The plan is referred to inside of this object.
  WinogradConv2d(const WinogradConv2d&) = delete;
  WinogradConv2d& operator=(const WinogradConv2d&) = delete;

  // bias: (O) or null.
  void set_weights(const T* weight, const T* bias, WinogradKernels kernels = WinogradKernels::kPlain) {
    with_variant([&]<class W>() { weights_.template set<W>(weight, bias, kernels); });
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
  // Working memory of a thread.
  struct Memory {
    Memory(const WinogradPlan<S>& p, T unevenness, bool argmax)
        : points(p.points * p.points_size() + kBeyond),
          border(p.points * p.in_planes() * p.shape.width),
          products(p.points * p.products_size() + kBeyond),
          by_pixel(p.lanes_are_channels ? (argmax ? 2 : 1) * results(p) : 0),
          argmax_by_pixel(by_pixel.data() + results(p)),
          guard(p, unevenness) {
      std::fill_n(points.data(), p.points * p.points_size() + kBeyond, T(0));  // the padding stays zero
    }
    static int64_t results(const WinogradPlan<S>& p) {
      return p.group_tiles * p.tile_rows() * p.out_columns() * p.channels;
    }

    static constexpr int64_t kBeyond = kMaxVectors * kWidth;  // whole tiles of vectors are read and written
    Scratch<T> points, border, products;
    Scratch<T> by_pixel;  // results, then the argmax of the pool, to be brought into planes
    T* const argmax_by_pixel;
    WinogradGuard<S> guard;
  };
  // Some tiles of an image that follow each other, and where their results go.
  struct Tiles {
    const T* image;
    T* output;        // of the image
    uint8_t* argmax;  // or null
    int64_t first, end;
  };

  template <class Body>
  void with_variant(const Body& body) const {
    if (p_.taps == 2) {
      body.template operator()<Winograd<S, 2, 4>>();
    } else if (p_.taps == 3 && p_.points == 4) {
      body.template operator()<Winograd<S, 3, 4>>();
    } else if (p_.taps == 3) {
      body.template operator()<Winograd<S, 3, 6>>();
    } else if (p_.points == 6) {
      body.template operator()<Winograd<S, 5, 6>>();
    } else {
      body.template operator()<Winograd<S, 5, 8>>();
    }
  }

  template <class W, bool kArgmax>
  void run_images(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    const int64_t in_size = s_.in_channels * s_.height * s_.width,
                  out_size = s_.out_channels * p_.out_pixels();
    const int64_t groups = (p_.tiles + p_.group_tiles - 1) / p_.group_tiles;
    parallel_for(images * groups, p_.group_tiles * p_.tile_cost(), [&](int64_t begin, int64_t end) {
      Memory memory(p_, weights_.taps().unevenness(), kArgmax);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / groups, first = i % groups * p_.group_tiles;
        const T* const image = input + n * in_size;
        if (groups == 1 && i + 1 < end) prefetch(image + in_size, in_size * int64_t{sizeof(T)});
        run_tiles<W, kArgmax>({image, output + n * out_size, kArgmax ? argmax + n * out_size : nullptr, first,
                               std::min(first + p_.group_tiles, p_.tiles)},
                              memory);
      }
    });
  }

  template <class W, bool kArgmax>
  void run_tiles(const Tiles& tiles, Memory& memory) const {
    using Direct = DirectRows<S, W>;
    const Columns all{0, p_.columns()};
    for (int64_t tile = tiles.first; tile < tiles.end; tile += p_.block_tiles) {
      const int64_t count = std::min(p_.block_tiles, tiles.end - tile);
      Columns direct = all;
      if (weights_.taps().unevenness() < std::numeric_limits<T>::infinity()) {
        transform_tiles<W>(tiles.image, tile, count, memory);
        direct = memory.guard.template direct<W>(tiles.image, tile, count);
        if (!direct.empty() && (!p_.lanes_are_channels || 2 * direct.count() > all.count())) direct = all;
      }
      if (direct.count() < all.count()) finish<W, kArgmax>(tiles, tile, count, all, memory);
      if (direct.empty()) continue;
      transform_tiles<Direct>(tiles.image, tile, count, memory);
      finish<Direct, kArgmax>(tiles, tile, count, direct, memory);
    }
    if (p_.lanes_are_channels) write_planes<kArgmax>(tiles, memory);
  }

  template <class W>
  void transform_tiles(const T* image, int64_t tile, int64_t count, Memory& memory) const {
    const int64_t height = s_.height, step = p_.outputs * s_.stride_h, tile_height = W::kPoints * s_.stride_h;
    T* to = memory.points.data() + s_.pad_left;
    int64_t top = tile * step - s_.pad_top;
    for (int64_t t = 0; t < count; ++t, top += step, to += p_.pitch) {
      TileRows<T> rows = rows_of(image + top * s_.width, height);
      if (top < 0 || top + tile_height > height) {
        rows = bordered(image, top, tile_height, memory.border.data());
      }
      transform_tile<S, W>(rows, to, p_.plane, p_.points_size(), memory.guard.sums(t, tile + t));
    }
  }

  // From `data`, of channels of so many rows.
  TileRows<T> rows_of(const T* data, int64_t height) const {
    const int64_t width = s_.width;
    return {data, width, s_.stride_h * width, s_.in_channels, height * width, s_.stride_h, width};
  }

  // A copy of the rows of a tile of which some lie outside of the image.
  TileRows<T> bordered(const T* image, int64_t top, int64_t rows, T* border) const {
    const int64_t height = s_.height, width = s_.width;
    T* to = border;
    for (int64_t c = 0; c < s_.in_channels; ++c, image += height * width) {
      for (int64_t y = top; y < top + rows; ++y, to += width) {
        if (y < 0 || y >= height) {
          std::fill_n(to, width, T(0));
        } else {
          std::copy_n(image + y * width, width, to);
        }
      }
    }
    return rows_of(border, rows);
  }

  template <class W, bool kArgmax>
  void finish(const Tiles& tiles, int64_t tile, int64_t count, Columns columns, Memory& memory) const {
    multiply<W>(memory.points.data(), count, columns, memory.products.data());
    if (p_.lanes_are_channels) {
      finish_by_channel<W, kArgmax>(tiles, tile, columns, memory);
    } else {
      finish_by_pixel<W, kArgmax>(tiles, tile, count, memory.products.data());
    }
  }

  // Of some output columns, where the lanes are channels; else of all.
  template <class W>
  void multiply(const T* points, int64_t count, Columns columns, T* products) const {
    const bool by_channel = p_.lanes_are_channels;
    const int64_t block = p_.tile_vectors * kWidth, last = by_channel ? p_.channels : count * p_.pitch;
    const std::vector<Step>& steps = W::kDirect ? p_.direct_steps : p_.steps;
    for (int64_t i = 0; i < W::kProducts; i += p_.products_at_once) {
      const T* const value = points + i * p_.points_size() + (by_channel ? columns.begin * s_.stride_w : 0);
      const T* const weight = W::kDirect ? weights_.taps().data() : weights_.point(i);
      Contraction<T> t{};
      t.a = by_channel ? value : weight, t.b = by_channel ? weight : value;
      t.a_stride = by_channel ? s_.stride_w : 1;
      t.b_vector_stride = t.c_vector_stride = t.last_lanes = kWidth;
      t.b_tap_stride = W::kDirect ? p_.channels : block;
      t.steps = steps.data(), t.step_count = static_cast<int64_t>(steps.size());
      // In the Winograd domain the bias is added to one point: see transform_output.
      t.init = W::kDirect ? weights_.taps().bias() : weights_.taps().init(i);
      t.init_is_per_row = !by_channel, t.init_stride = by_channel ? 0 : 1;
      t.c_stride = by_channel ? p_.channels : p_.products_pitch();
      t.c = products + i * p_.products_size() + (by_channel ? columns.begin * t.c_stride : 0);
      const int64_t next_value = p_.points_size(), next_weight = W::kDirect ? 0 : weights_.step();
      t.count = std::min(p_.products_at_once, W::kProducts - i);
      t.next = {by_channel ? next_value : next_weight, by_channel ? next_weight : next_value,
                W::kDirect ? 0 : p_.channels, p_.products_size()};
      for (int64_t first = 0; first < last; first += block) {
        const int64_t vectors = std::min<int64_t>(p_.tile_vectors, (last - first + kWidth - 1) / kWidth);
        const int64_t rows = by_channel ? columns.count() : s_.out_channels;
        ContractTiles<S>::run_several(t, rows, static_cast<int>(vectors), static_cast<int>(p_.taps_per_step));
        t.b += by_channel && !W::kDirect ? p_.terms * block : block;
        t.c += block, t.init += by_channel ? block : 0;
      }
    }
  }

  template <class W, bool kArgmax>
  void finish_by_pixel(const Tiles& tiles, int64_t tile, int64_t count, const T* products) const {
    const int64_t step = p_.products_size(), rows = p_.out_rows(), columns = p_.out_columns();
    for (int64_t o = 0; o < s_.out_channels; ++o, products += p_.products_pitch()) {
      for (int64_t t = 0; t < count; ++t) {
        const int64_t row = (tile + t) * p_.tile_rows(), left = std::min(p_.tile_rows(), rows - row);
        const int64_t place = (o * rows + row) * columns;
        if (p_.pooled) {
          pool_rows<S, W, kArgmax>(products + t * p_.pitch, step, left, columns, tiles.output + place,
                                   kArgmax ? tiles.argmax + place : nullptr);
        } else {
          write_rows<S, W>(products + t * p_.pitch, step, left, columns, tiles.output + place);
        }
      }
    }
  }

  template <class W, bool kArgmax>
  void finish_by_channel(const Tiles& tiles, int64_t tile, Columns columns, Memory& memory) const {
    const int64_t step = p_.products_size(), row = tile * p_.tile_rows();
    const int64_t left = std::min(p_.tile_rows(), p_.out_rows() - row);
    const int64_t first = p_.pooled ? columns.begin / 2 : columns.begin;
    const int64_t place = ((row - tiles.first * p_.tile_rows()) * p_.out_columns() + first) * p_.channels;
    const T* const products = memory.products.data() + columns.begin * p_.channels;
    if (p_.pooled) {
      pool_pixels<S, W, kArgmax>(products, step, left, columns.count() / 2, p_.channels,
                                 p_.out_columns() * p_.channels, memory.by_pixel.data() + place,
                                 kArgmax ? memory.argmax_by_pixel + place : nullptr);
    } else {
      write_pixels<S, W>(products, step, left, columns.count() * p_.channels, p_.out_columns() * p_.channels,
                         memory.by_pixel.data() + place);
    }
  }

  template <bool kArgmax>
  void write_planes(const Tiles& tiles, const Memory& memory) const {
    const int64_t first = tiles.first * p_.tile_rows(),
                  end = std::min(tiles.end * p_.tile_rows(), p_.out_rows());
    const int64_t place = first * p_.out_columns(), pixels = (end - first) * p_.out_columns();
    transpose<S>(memory.by_pixel.data(), p_.channels, tiles.output + place, p_.out_pixels(), pixels,
                 s_.out_channels);
    if constexpr (!kArgmax) return;
    write_argmax<S>(memory.argmax_by_pixel, p_.channels, s_.out_channels, pixels, tiles.argmax + place,
                    p_.out_pixels());
  }

  const WinogradPlan<S> p_;
  const Conv2dShape& s_ = p_.shape;
  WinogradWeights<S> weights_;
};

}  // namespace lenet_ext::cpu
