// max_pool2d within a tile of the fused engine, with the rules of max_pool2d.cu; and its gradient.
#pragma once

#include <cmath>

#include "cuda/engine/values.cuh"

namespace lenet_ext::cuda {

// Writes the output, and for backward the positions of the maxima and their argmax, where these are wanted.
template <class Compute, int kImages>
__device__ void pool_forward(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  const View& from = s.core_output;
  const Axis &y = s.pool_rows, &x = s.pool_columns;
  const auto* const input = tile.values(from.at);
  auto* const results = tile.values(s.output.at);
  for_each_task(s.output_size, [&](int32_t i) {
    const auto column = divide(i, x.out_size), row = divide(column.quotient, y.out_size);
    const int32_t channel = row.quotient, h = row.remainder, w = column.remainder;
    const int32_t top = h * y.stride - y.pad, left = w * x.stride - x.pad;
    const Span rows = taps_inside(y, top), columns = taps_inside(x, left);
    Values<Compute, kImages> best = splat<Compute, kImages>(-INFINITY);
    int32_t best_argmax[kImages];
#pragma unroll
    for (int image = 0; image < kImages; ++image) best_argmax[image] = rows.begin * x.kernel + columns.begin;
    for (int32_t kh = rows.begin; kh < rows.end; ++kh) {
      for (int32_t kw = columns.begin; kw < columns.end; ++kw) {
        const Values<Compute, kImages> v =
            input[from.index(channel, top + kh * y.dilation, left + kw * x.dilation)];
#pragma unroll
        for (int image = 0; image < kImages; ++image) {
          const Compute value = v.values[image];
          if (value > best.values[image] || value != value) {
            best.values[image] = value, best_argmax[image] = kh * x.kernel + kw;
          }
        }
      }
    }
    results[s.output.index(channel, h, w)] = activated(s.activation, best);
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (s.positions_at != kNowhere) {
        const auto tap = divide(best_argmax[image], x.kernel);
        tile.positions(s.positions_at)[i * kImages + image] =
            s.patch_position(top + tap.quotient * y.dilation, left + tap.remainder * x.dilation);
      }
      if (s.argmax != nullptr && image < tile.images()) {
        const int64_t place = (tile.first() + image) * s.output_size + i;
        if (s.byte_argmax) {
          s.argmax[place] = static_cast<uint8_t>(best_argmax[image]);
        } else {
          reinterpret_cast<int32_t*>(s.argmax)[place] = best_argmax[image];
        }
      }
    }
  });
}

// The positions of the maxima from the argmax of an earlier call. This comes from the caller: what lies
// outside of the plane is moved to its nearest pixel.
template <class Compute, int kImages>
__device__ void load_positions(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  const Axis &y = s.pool_rows, &x = s.pool_columns;
  const auto within = [](int64_t value, int32_t size) {
    return static_cast<int32_t>(value < 0 ? 0 : value < size ? value : size - 1);
  };
  for_each_task(s.output_size * kImages, [&](int32_t item) {
    const int32_t i = item / kImages, image = item % kImages;
    const auto column = divide(i, x.out_size), row = divide(column.quotient, y.out_size);
    const int64_t place = (tile.first() + image) * s.output_size + i;
    int64_t argmax = 0;
    if (image < tile.images()) {
      argmax = s.byte_argmax ? int64_t{s.argmax[place]} : reinterpret_cast<const int32_t*>(s.argmax)[place];
    }
    const int64_t h = int64_t{row.remainder} * y.stride - y.pad + argmax / x.kernel * y.dilation;
    const int64_t w = int64_t{column.remainder} * x.stride - x.pad + argmax % x.kernel * x.dilation;
    tile.positions(s.positions_at)[item] = s.patch_position(within(h, y.size), within(w, x.size));
  });
}

// The gradient before the pool, dense: each pixel looks into the windows that hold it.
template <class Compute, int kImages>
__device__ void pool_input_grad(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile,
                                Values<Compute, kImages>* results, const ActivationCall& activation) {
  const Axis &y = s.pool_rows, &x = s.pool_columns;
  const auto* const grads = tile.values(s.grad_at);
  const auto* const input = tile.values(s.input.at);
  const int32_t* const positions = tile.positions(s.positions_at);
  for_each_task(s.core_size, [&](int32_t i) {
    const auto column = divide(i, x.size), row = divide(column.quotient, y.size);
    const int32_t h = row.remainder, w = column.remainder, own = s.patch_position(h, w);
    const Span rows = windows_around(y, h), columns = windows_around(x, w);
    Values<Compute, kImages> sums = splat<Compute, kImages>(0);
    for (int32_t oh = rows.begin; oh < rows.end; ++oh) {
      for (int32_t ow = columns.begin; ow < columns.end; ++ow) {
        const int32_t out = (row.quotient * y.out_size + oh) * x.out_size + ow;
        const Values<Compute, kImages> grad = grads[out];
#pragma unroll
        for (int image = 0; image < kImages; ++image) {
          if (positions[out * kImages + image] == own) sums.values[image] += grad.values[image];
        }
      }
    }
    results[i] = activation_grad(activation, sums, input[s.input.index(row.quotient, h, w)]);
  });
}

}  // namespace lenet_ext::cuda
