// linear within a tile of the fused engine: forward, and the gradient of its input. The weight's gradient is
// a product of matrices over the whole batch (linear_grad.cuh).
#pragma once

#include "cuda/engine/values.cuh"

namespace lenet_ext::cuda {

// kLanes neighbouring threads share the sum of an output: a warp loads whole sectors of 32 bytes.
template <class Compute, int kImages>
__device__ void linear_forward(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  constexpr int kLanes = 8;
  const auto* const input = tile.values(s.input.at);
  auto* const results = tile.values(s.output.at);
  for_each_task_of_warps(s.group_out * kLanes, [&](int32_t task) {
    const int32_t out = task / kLanes, lane = task % kLanes;
    const bool inside = out < s.group_out;
    Values<Compute, kImages> sums = splat<Compute, kImages>(0);
    const Compute* const weight = s.weight + int64_t{inside ? out : 0} * s.group_in;
#pragma unroll 4
    for (int32_t i = inside ? lane : s.group_in; i < s.group_in; i += kLanes) {
      const Compute w = weight[i];
      const Values<Compute, kImages> x = input[i];
#pragma unroll
      for (int image = 0; image < kImages; ++image) sums.values[image] += w * x.values[image];
    }
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int image = 0; image < kImages; ++image)
        sums.values[image] += __shfl_xor_sync(kWholeWarp, sums.values[image], distance);
    }
    if (!inside || lane != 0) return;
    if (s.bias != nullptr) {
#pragma unroll
      for (int image = 0; image < kImages; ++image) sums.values[image] += s.bias[out];
    }
    results[out] = activated(s.activation, sums);
  });
}

// A thread for each input: neighbours load neighbouring weights.
template <class Compute, int kImages>
__device__ void linear_input_grad(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  const auto* const input = tile.values(s.input.at);
  const auto* const grad = tile.values(s.grad_at);
  auto* const results = tile.values(s.input_grad_at);
  for_each_task(s.group_in, [&](int32_t i) {
    Values<Compute, kImages> sums = splat<Compute, kImages>(0);
    const Compute* weight = s.weight + i;
#pragma unroll 4
    for (int32_t out = 0; out < s.group_out; ++out) {
      const Compute w = weight[int64_t{out} * s.group_in];
      const Values<Compute, kImages> g = grad[out];
#pragma unroll
      for (int image = 0; image < kImages; ++image) sums.values[image] += w * g.values[image];
    }
    results[i] = activation_grad(s.input_activation, sums, input[i]);
  });
}

}  // namespace lenet_ext::cuda
