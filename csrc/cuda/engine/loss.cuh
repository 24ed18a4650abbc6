// Losses of the fused training step, with their gradients: means over the whole batch. A warp takes an image.
#pragma once

#include <cmath>

#include "cuda/engine/values.cuh"

namespace lenet_ext::cuda {

// Over the lanes of a warp, in the same order in all of them.
template <class T, class Combine>
__device__ T reduce_warp(T value, const Combine& combine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  return value;
}

// -log softmax(output)[target]; shifted by the largest output, so that no exponential overflows. A target
// that is no class counts as class 0 here: the step is not taken (parameters.cuh). Returns the image's
// loss.
template <class Compute>
__device__ Compute cross_entropy(int32_t classes, int32_t stride, const Compute* output, int64_t target,
                                 Compute scale, Compute* grad) {
  const int32_t lane = threadIdx.x % kWarpSize;
  if (target < 0 || target >= classes) target = 0;
  Compute largest = -INFINITY, total = 0;
  for (int32_t j = lane; j < classes; j += kWarpSize) {
    const Compute value = output[j * stride];
    largest = value > largest || value != value ? value : largest;
  }
  const auto greater = [](Compute a, Compute b) { return a > b || a != a ? a : b; };
  largest = reduce_warp(largest, greater);
  for (int32_t j = lane; j < classes; j += kWarpSize) total += std::exp(output[j * stride] - largest);
  total = reduce_warp(total, [](Compute a, Compute b) { return a + b; });
  for (int32_t j = lane; j < classes; j += kWarpSize) {
    const Compute probability = std::exp(output[j * stride] - largest) / total;
    grad[j * stride] = scale * (j == target ? probability - 1 : probability);
  }
  // The difference comes first: beside large outputs the logarithm would be rounded away.
  return std::log(total) + (largest - output[target * stride]);
}

// The sum of (output - target)^2. targets: `count` values of the stored type from `first` on.
template <class Compute>
__device__ Compute squared_error(int32_t count, int32_t stride, const Compute* output, const void* targets,
                                 DType dtype, int64_t first, Compute scale, Compute* grad) {
  Compute sum = 0;
  for (int32_t j = threadIdx.x % kWarpSize; j < count; j += kWarpSize) {
    const Compute difference = output[j * stride] - load_stored<Compute>(targets, dtype, first + j);
    grad[j * stride] = 2 * scale * difference;
    sum += difference * difference;
  }
  return reduce_warp(sum, [](Compute a, Compute b) { return a + b; });
}

// The losses of the tile's images, and the gradient of the last stage's output; that of images which are not
// there is 0.
template <class Compute, int kImages>
__device__ void loss_and_grad(const TilePass<Compute>& pass, const TileStage<Compute>& last,
                              const Tile<Compute, kImages>& tile) {
  const int32_t size = last.output_size;
  const auto* const output = reinterpret_cast<const Compute*>(tile.values(last.output.at));
  auto* const grad = reinterpret_cast<Compute*>(tile.values(last.grad_at));
  const auto scale = static_cast<Compute>(pass.loss_scale);
  const int32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int32_t image = warp; image < kImages; image += kTileThreads / kWarpSize) {
    if (image >= tile.images()) {
      for (int32_t j = lane; j < size; j += kWarpSize) grad[j * kImages + image] = 0;
      continue;
    }
    const int64_t source = source_image(pass.images, tile.first() + image);
    const Compute loss =
        pass.loss == Loss::kCrossEntropy
            ? cross_entropy(size, kImages, output + image, static_cast<const int64_t*>(pass.targets)[source],
                            scale, grad + image)
            : squared_error(size, kImages, output + image, pass.targets, pass.dtype, source * size, scale,
                            grad + image);
    if (lane == 0) pass.losses[tile.first() + image] = loss;
  }
}

}  // namespace lenet_ext::cuda
