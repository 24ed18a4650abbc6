// conv2d within a tile of the fused engine: forward, and the gradients of its input and weight.
#pragma once

#include "cuda/engine/values.cuh"

namespace lenet_ext::cuda {

// sums[channel][image] += weight[channel] * value[image]. The weights of a chunk lie side by side; all
// threads of a warp load the same ones, but for the few that are at a border of a channel.
template <int kChannels, class Compute, int kImages>
__device__ void multiply_add(const Compute* weight, const Values<Compute, kImages>& value,
                             Compute (&sums)[kChannels][kImages]) {
  constexpr int kWide = kChannels % 4 == 0 ? 4 : kChannels % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int channel = 0; channel < kChannels; channel += kWide) {
    const auto weights = *reinterpret_cast<const Vector<Compute, kWide>*>(weight + channel);
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
#pragma unroll
      for (int image = 0; image < kImages; ++image)
        sums[channel + j][image] += weights.values[j] * value.values[image];
    }
  }
}

// One output pixel of kChannels channels. kWidth: of the kernel, or 0 for any.
template <int kChannels, int kWidth, class Compute, int kImages>
__device__ void sum_patch(const TileStage<Compute>& s, const Values<Compute, kImages>* patch,
                          const Compute* weight, Compute (&sums)[kChannels][kImages]) {
  const int32_t width = kWidth > 0 ? kWidth : s.columns.kernel, row = s.rows.dilation * s.input.row;
  for (int32_t channel = 0; channel < s.group_in; ++channel) {
    const Values<Compute, kImages>* line = patch + channel * s.input.plane;
    for (int32_t kh = 0; kh < s.rows.kernel; ++kh, line += row) {
#pragma unroll
      for (int32_t kw = 0; kw < width; ++kw, weight += s.weight_stride)
        multiply_add<kChannels>(weight, line[kw * s.columns.dilation], sums);
    }
  }
}

// output: of the convolution alone. Tasks: (group, chunk of output channels, pixel).
template <int kChannels, class Compute, int kImages>
__device__ void conv2d_forward(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile,
                               const View& output, const ActivationCall& activation) {
  const int32_t pixels = s.rows.out_size * s.columns.out_size, chunks = s.weight_stride / kChannels;
  const int32_t taps = s.group_in * s.rows.kernel * s.columns.kernel;
  const auto* const input = tile.values(s.input.at);
  auto* const results = tile.values(output.at);
  for_each_task(s.groups * chunks * pixels, [&](int32_t task) {
    const auto pixel = divide(task, pixels), chunk = divide(pixel.quotient, chunks);
    const auto place = divide(pixel.remainder, s.columns.out_size);
    const int32_t group = chunk.quotient, first = chunk.remainder * kChannels;
    const auto* const patch =
        input + group * s.group_in * s.input.plane + s.patch_position(place.quotient, place.remainder);
    const Compute* const weight = s.weight + int64_t{group} * taps * s.weight_stride + first;
    Compute sums[kChannels][kImages] = {};
    if (s.columns.kernel == 5) {
      sum_patch<kChannels, 5>(s, patch, weight, sums);
    } else if (s.columns.kernel == 3) {
      sum_patch<kChannels, 3>(s, patch, weight, sums);
    } else {
      sum_patch<kChannels, 0>(s, patch, weight, sums);
    }
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      if (first + j >= s.group_out) continue;
      const int32_t channel = group * s.group_out + first + j;
      const Compute bias = s.bias != nullptr ? s.bias[channel] : 0;
      Values<Compute, kImages> result;
#pragma unroll
      for (int image = 0; image < kImages; ++image) result.values[image] = sums[j][image] + bias;
      results[output.index(channel, place.quotient, place.remainder)] = activated(activation, result);
    }
  });
}

// The output that meets `position` with tap `tap`, or -1.
__device__ inline int32_t output_at(const Axis& axis, int32_t position, int32_t tap) {
  int32_t distance = position + axis.pad - tap * axis.dilation;
  if (distance < 0) return -1;
  if (axis.stride != 1) {
    const auto d = divide(distance, axis.stride);
    if (d.remainder != 0) return -1;
    distance = d.quotient;
  }
  return distance < axis.out_size ? distance : -1;
}

// From the gradient of the convolution's output, dense, to that of its input. Tasks: (group, chunk of input
// channels, pixel of the input).
template <int kChannels, class Compute, int kImages>
__device__ void conv2d_input_grad(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile,
                                  const Values<Compute, kImages>* grad) {
  const int32_t width = s.columns.size, pixels = s.rows.size * width, chunks = s.back_stride / kChannels;
  const int32_t out_pixels = s.rows.out_size * s.columns.out_size;
  const int32_t taps = s.group_out * s.rows.kernel * s.columns.kernel;
  const auto* const input = tile.values(s.input.at);
  auto* const results = tile.values(s.input_grad_at);
  for_each_task(s.groups * chunks * pixels, [&](int32_t task) {
    const auto pixel = divide(task, pixels), chunk = divide(pixel.quotient, chunks);
    const auto place = divide(pixel.remainder, width);
    const int32_t group = chunk.quotient, first = chunk.remainder * kChannels;
    const Compute* weight = s.back_weight + int64_t{group} * taps * s.back_stride + first;
    Compute sums[kChannels][kImages] = {};
    for (int32_t channel = 0; channel < s.group_out; ++channel) {
      const auto* const plane = grad + (group * s.group_out + channel) * out_pixels;
      for (int32_t kh = 0; kh < s.rows.kernel; ++kh, weight += s.columns.kernel * s.back_stride) {
        const int32_t h = output_at(s.rows, place.quotient, kh);
        if (h < 0) continue;
#pragma unroll 5
        for (int32_t kw = 0; kw < s.columns.kernel; ++kw) {
          const int32_t w = output_at(s.columns, place.remainder, kw);
          if (w >= 0) {
            multiply_add<kChannels>(weight + kw * s.back_stride, plane[h * s.columns.out_size + w], sums);
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      if (first + j >= s.group_in) continue;
      const int32_t channel = group * s.group_in + first + j;
      Values<Compute, kImages> result;
#pragma unroll
      for (int image = 0; image < kImages; ++image) result.values[image] = sums[j][image];
      if (s.input_activation.kind != Activation::kNone) {
        const auto read = input[s.input.index(channel, place.quotient, place.remainder)];
        result = activation_grad(s.input_activation, result, read);
      }
      results[channel * pixels + pixel.remainder] = result;
    }
  });
}

// The weight's gradient, and the bias's, of this tile's images, added to those of the block's tiles before.
// Only the pixels where a pool found its maxima have a gradient: for each of these it adds
//
//     grad * (patch of the input)
//
// kLanes neighbouring threads share the sums over pixels and images, for kTaps taps of one output channel.
template <class Compute, int kImages>
__device__ void conv2d_weight_grad(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile,
                                   Compute* partial) {
  constexpr int kTaps = 5, kLanes = 8;
  const int32_t plane_taps = s.rows.kernel * s.columns.kernel, taps = s.group_in * plane_taps;
  const int32_t chunks = static_cast<int32_t>(divide_up(taps, kTaps)), channels = s.groups * s.group_out;
  const int32_t items = s.output_size / channels * kImages;  // of one output channel
  const auto* const input = reinterpret_cast<const Compute*>(tile.values(s.input.at));
  const auto* const grads = reinterpret_cast<const Compute*>(tile.values(s.grad_at));
  for_each_task_of_warps(channels * chunks * kLanes, [&](int32_t task) {
    const int32_t unit = task / kLanes, lane = task % kLanes;
    const auto chunk = divide(unit, chunks);
    const int32_t channel = chunk.quotient, first = chunk.remainder * kTaps;
    const bool inside = channel < channels;
    Compute sums[kTaps] = {}, bias = 0;
    if (inside) {
      int32_t offsets[kTaps];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const auto t = divide(first + k < taps ? first + k : taps - 1, plane_taps);
        const auto kw = divide(t.remainder, s.columns.kernel);
        offsets[k] = ((channel / s.group_out * s.group_in + t.quotient) * s.input.plane +
                      kw.quotient * s.rows.dilation * s.input.row + kw.remainder * s.columns.dilation) *
                     kImages;
      }
      const Compute* const grad = grads + int64_t{channel} * items;
      const int32_t* const positions =
          s.pooled ? tile.positions(s.positions_at) + int64_t{channel} * items : nullptr;
      for (int32_t item = lane; item < items; item += kLanes) {
        int32_t position;
        if (s.pooled) {
          position = positions[item];
        } else {
          const auto place = divide(item / kImages, s.columns.out_size);
          position = s.patch_position(place.quotient, place.remainder);
        }
        const Compute g = grad[item];
        const Compute* const patch = input + position * kImages + item % kImages;
        bias += g;
#pragma unroll
        for (int k = 0; k < kTaps; ++k) sums[k] += g * patch[offsets[k]];
      }
    }
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      bias += __shfl_xor_sync(kWholeWarp, bias, distance);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) sums[k] += __shfl_xor_sync(kWholeWarp, sums[k], distance);
    }
    if (!inside) return;
    const auto add = [&](int64_t index, Compute sum) {
      partial[index] = tile.is_first() ? sum : partial[index] + sum;
    };
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      if (lane == k && first + k < taps) add(channel * taps + first + k, sums[k]);
    }
    if (lane == kTaps && first == 0 && s.bias != nullptr) add(s.weight_count + channel, bias);
  });
}

}  // namespace lenet_ext::cuda
