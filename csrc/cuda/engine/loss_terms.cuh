// Losses of single elements, with their slopes.
#pragma once

#include <cmath>

#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

// The loss of an element and its derivative.
template <class T>
struct LossTerm {
  T value, slope;
};

// Like torch's, 0 of NaN.
template <class T>
__device__ T sign(T x) {
  return static_cast<T>((x > 0) - (x < 0));
}

template <class T>
__device__ LossTerm<T> absolute_error(T difference) {
  return {std::abs(difference), sign(difference)};
}

template <class T>
__device__ LossTerm<T> smooth_l1(T difference, T beta) {
  const T distance = std::abs(difference);
  const T slope = distance >= beta ? sign(difference) : difference / beta;
  return {distance < beta ? difference * difference / 2 / beta : distance - beta / 2, slope};
}

template <class T>
__device__ LossTerm<T> huber_error(T difference, T delta) {
  const T distance = std::abs(difference);
  const T slope = distance >= delta ? delta * sign(difference) : difference;
  return {distance <= delta ? difference * difference / 2 : delta * (distance - delta / 2), slope};
}

// Of a probability. Neither the logarithm nor the slope becomes infinite, as in torch.
template <class T>
__device__ LossTerm<T> binary_cross_entropy(T output, T target) {
  constexpr T kLeastLog = -100, kLeastVariance = static_cast<T>(1e-12);
  const auto at_least = [](T x, T least) { return x < least ? least : x; };
  const T yes = at_least(std::log(output), kLeastLog), no = at_least(std::log1p(-output), kLeastLog);
  return {(target - 1) * no - target * yes,
          (output - target) / at_least((1 - output) * output, kLeastVariance)};
}

template <class T>
__device__ LossTerm<T> binary_cross_entropy_with_logits(T output, T target, T pos_weight) {
  const T factor = 1 + (pos_weight - 1) * target;
  const T minus_log = std::log1p(std::exp(-std::abs(output))) + (output < 0 ? -output : T(0));
  return {(1 - target) * output + factor * minus_log, factor / (1 + std::exp(-output)) - pos_weight * target};
}

template <class T>
__device__ LossTerm<T> loss_term(const TileLoss& loss, T output, T target, T pos_weight) {
  const T difference = output - target, width = static_cast<T>(loss.width);
  switch (loss.kind) {
    case LossKind::kL1:
      return absolute_error(difference);
    case LossKind::kSmoothL1:
      return width == 0 ? absolute_error(difference) : smooth_l1(difference, width);
    case LossKind::kHuber:
      return huber_error(difference, width);
    case LossKind::kBinaryCrossEntropy:
      return binary_cross_entropy(output, target);
    case LossKind::kBinaryCrossEntropyWithLogits:
      return binary_cross_entropy_with_logits(output, target, pos_weight);
    default:
      return {difference * difference, 2 * difference};
  }
}

}  // namespace lenet_ext::cuda
