// Losses of the fused training step, with their gradients. A warp takes an image.
#pragma once

#include <cmath>

#include "cuda/engine/loss_terms.cuh"
#include "cuda/engine/values.cuh"

namespace lenet_ext::cuda {

// The threads that share a row of classes: a warp, or a single thread.
struct WholeWarp {
  static constexpr int32_t kLanes = kWarpSize;
  static __device__ int32_t lane() { return threadIdx.x % kWarpSize; }

  // Over the lanes, in the same order in all of them.
  template <class T, class Combine>
  static __device__ T reduce(T value, const Combine& combine) {
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
      value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
    return value;
  }
};

struct SingleThread {
  static constexpr int32_t kLanes = 1;
  static __device__ int32_t lane() { return 0; }

  template <class T, class Combine>
  static __device__ T reduce(T value, const Combine&) {
    return value;
  }
};

template <class T>
__device__ T sum_of_warp(T value) {
  return WholeWarp::reduce(value, [](T a, T b) { return a + b; });
}

// What the losses of an image's classes are computed from; the values of one class lie `stride` apart from
// those of the next.
template <class Compute>
struct ClassRow {
  int32_t classes, stride;
  const Compute* output;
  Compute* grad;
  Compute scale;
};

// The sum of -wanted(class) * log softmax(output), or where only one class is wanted its part alone; shifted by
// the largest output, so that no exponential overflows.
template <class Threads, class Compute, class Wanted>
__device__ Compute cross_entropy(const ClassRow<Compute>& row, const Wanted& wanted, int64_t only = -1) {
  Compute largest = -INFINITY, total = 0, all_wanted = 0, sum = 0;
  for (int32_t j = Threads::lane(); j < row.classes; j += Threads::kLanes) {
    const Compute value = row.output[j * row.stride];
    largest = value > largest || value != value ? value : largest;
  }
  const auto greater = [](Compute a, Compute b) { return a > b || a != a ? a : b; };
  const auto plus = [](Compute a, Compute b) { return a + b; };
  largest = Threads::reduce(largest, greater);
  for (int32_t j = Threads::lane(); j < row.classes; j += Threads::kLanes) {
    total += std::exp(row.output[j * row.stride] - largest), all_wanted += wanted(j);
  }
  total = Threads::reduce(total, plus), all_wanted = Threads::reduce(all_wanted, plus);
  const Compute log_total = std::log(total);
  for (int32_t j = Threads::lane(); j < row.classes; j += Threads::kLanes) {
    const Compute value = row.output[j * row.stride], own = wanted(j);
    // The difference comes first: beside large outputs the logarithm would be rounded away.
    if (only < 0 || j == only) sum += own * (log_total + (largest - value));
    row.grad[j * row.stride] = row.scale * (std::exp(value - largest) / total * all_wanted - own);
  }
  return Threads::reduce(sum, plus);
}

// The loss at one position of an image, by all `Threads`.
template <class Threads, class Compute>
__device__ Compute class_loss(const TilePass<Compute>& pass, const ClassRow<Compute>& row, int64_t first,
                              int64_t position) {
  const TileLoss& loss = pass.loss;
  const auto weight = [&](int64_t j) {
    const void* const all = loss.tensors.weight;
    return all == nullptr ? Compute(1) : load_stored<Compute>(all, pass.dtype, j);
  };
  const auto smoothing = static_cast<Compute>(loss.smoothing);
  const auto smoothed = [&](Compute own) {
    return own * (1 - smoothing) + smoothing / static_cast<Compute>(row.classes);
  };
  if (loss.tensors.soft) {
    return cross_entropy<Threads>(row, [&](int32_t j) {
      const int64_t place = first * row.classes + j * loss.positions + position;
      return weight(j) * smoothed(load_stored<Compute>(loss.targets, pass.dtype, place));
    });
  }
  // A target that is no class counts nothing here: the step is not taken (parameters.cuh).
  const int64_t target = static_cast<const int64_t*>(loss.targets)[first + position];
  const bool counts = target != loss.ignored && target >= 0 && target < row.classes;
  if (!counts || loss.kind == LossKind::kNegativeLogLikelihood) {
    const Compute slope = counts ? -weight(target) : Compute(0);
    for (int32_t j = Threads::lane(); j < row.classes; j += Threads::kLanes) {
      row.grad[j * row.stride] = j == target && counts ? row.scale * slope : Compute(0);
    }
    return counts ? slope * row.output[target * row.stride] : Compute(0);
  }
  if (smoothing == 0) {
    const Compute own = weight(target);
    return cross_entropy<Threads>(row, [&](int32_t j) { return j == target ? own : Compute(0); }, target);
  }
  return cross_entropy<Threads>(
      row, [&](int32_t j) { return weight(j) * smoothed(static_cast<Compute>(j == target)); });
}

// Of an image's classes; by a warp a position where there is one, else each thread has its own.
template <class Compute>
__device__ Compute loss_of_classes(const TilePass<Compute>& pass, int64_t source, int32_t stride,
                                   const Compute* output, Compute* grad, Compute scale) {
  const int32_t classes = pass.loss.classes, positions = pass.loss.positions;
  const int64_t first = source * positions;
  if (positions == 1) {
    return class_loss<WholeWarp, Compute>(pass, {classes, stride, output, grad, scale}, first, 0);
  }
  Compute sum = 0;
  for (int32_t p = WholeWarp::lane(); p < positions; p += kWarpSize) {
    const ClassRow<Compute> row{classes, positions * stride, output + p * stride, grad + p * stride, scale};
    sum += class_loss<SingleThread, Compute>(pass, row, first, p);
  }
  return sum_of_warp(sum);
}

// Of an image's elements. image: in the batch.
template <class Compute>
__device__ Compute loss_of_elements(const TilePass<Compute>& pass, int64_t image, int64_t source,
                                    int32_t stride, const Compute* output, Compute* grad, Compute scale) {
  const int32_t size = pass.loss.positions;
  const LossTensors& tensors = pass.loss.tensors;
  const auto load = [&](const void* weights, int64_t step, int32_t j) {
    return weights == nullptr ? Compute(1) : load_stored<Compute>(weights, pass.dtype, image * step + j);
  };
  Compute sum = 0;
  for (int32_t j = WholeWarp::lane(); j < size; j += kWarpSize) {
    const Compute value = output[j * stride];
    const Compute target = load_stored<Compute>(pass.loss.targets, pass.dtype, source * size + j);
    if (pass.loss.kind == LossKind::kBinaryCrossEntropy &&
        !(value >= 0 && value <= 1 && target >= 0 && target <= 1)) {
      *pass.bad = 1;  // whoever writes it
    }
    const Compute weight = load(tensors.weight, tensors.weight_step, j);
    const LossTerm<Compute> term =
        loss_term(pass.loss, value, target, load(tensors.pos_weight, tensors.pos_weight_step, j));
    grad[j * stride] = scale * (weight * term.slope);
    sum += weight * term.value;
  }
  return sum_of_warp(sum);
}

// The losses of the tile's images, and the gradient of the last stage's output; that of images which are not
// there is 0.
template <class Compute, int kImages>
__device__ void loss_and_grad(const TilePass<Compute>& pass, const TileStage<Compute>& last,
                              const Tile<Compute, kImages>& tile) {
  const int32_t size = last.output_size;
  const auto* const outputs = reinterpret_cast<const Compute*>(tile.values(last.output.at));
  auto* const grads = reinterpret_cast<Compute*>(tile.values(last.grad_at));
  const auto scale = static_cast<Compute>(1 / *pass.loss.divisor);
  const int32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int32_t image = warp; image < kImages; image += kTileThreads / kWarpSize) {
    if (image >= tile.images()) {
      for (int32_t j = lane; j < size; j += kWarpSize) grads[j * kImages + image] = 0;
      continue;
    }
    const int64_t place = tile.first() + image, source = source_image(pass.images, place);
    const Compute* const output = outputs + image;
    Compute* const grad = grads + image;
    const Compute loss = pass.loss.of_classes
                             ? loss_of_classes(pass, source, kImages, output, grad, scale)
                             : loss_of_elements(pass, place, source, kImages, output, grad, scale);
    if (lane == 0) pass.losses[place] = loss;
  }
}

}  // namespace lenet_ext::cuda
