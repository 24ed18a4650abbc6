// The losses of a training step, with their gradients, as sums over what one call sees. Functions that take
// `grads` write the gradient of the sum times `scale` there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace lenet_ext::cpu {

// weight * -log softmax(logits)[target]. Both shifted by the largest logit, so that no exponential overflows.
template <class T>
double cross_entropy(int64_t classes, const T* logits, int64_t target, T weight, T scale, T* grads) {
  const T largest = *std::max_element(logits, logits + classes);
  T total = 0;
  for (int64_t j = 0; j < classes; ++j) total += grads[j] = std::exp(logits[j] - largest);
  scale *= weight;
  const T factor = scale / total;
  for (int64_t j = 0; j < classes; ++j) grads[j] *= factor;
  grads[target] -= scale;
  // The difference comes first: beside large logits the logarithm would be rounded away.
  return static_cast<double>(weight * (std::log(total) + (largest - logits[target])));
}

// The sum of -wanted * log softmax(logits), where `wanted` is what grads hold before.
template <class T>
double soft_cross_entropy(int64_t classes, const T* logits, T scale, T* grads) {
  const T largest = *std::max_element(logits, logits + classes);
  T total = 0, all_wanted = 0;
  for (int64_t j = 0; j < classes; ++j) total += std::exp(logits[j] - largest), all_wanted += grads[j];
  const T log_total = std::log(total), factor = all_wanted / total;
  double sum = 0;
  for (int64_t j = 0; j < classes; ++j) {
    sum += static_cast<double>(grads[j]) * static_cast<double>(log_total + (largest - logits[j]));
    grads[j] = scale * (factor * std::exp(logits[j] - largest) - grads[j]);
  }
  return sum;
}

// The loss of an element and its derivative.
template <class T>
struct LossTerm {
  T value, slope;
};

// Like torch's, 0 of NaN.
template <class T>
T sign(T x) {
  return static_cast<T>((x > 0) - (x < 0));
}

// Losses of elements: of an output and a target, and of the place of both.
struct SquaredError {
  template <class T>
  LossTerm<T> operator()(T output, T target, int64_t) const {
    const T difference = output - target;
    return {difference * difference, 2 * difference};
  }
};

struct AbsoluteError {
  template <class T>
  LossTerm<T> operator()(T output, T target, int64_t) const {
    const T difference = output - target;
    return {std::abs(difference), sign(difference)};
  }
};

template <class T>
struct SmoothL1 {
  T beta;

  LossTerm<T> operator()(T output, T target, int64_t) const {
    const T difference = output - target, distance = std::abs(difference);
    const T slope = distance >= beta ? sign(difference) : difference / beta;
    return {distance < beta ? difference * difference / 2 / beta : distance - beta / 2, slope};
  }
};

template <class T>
struct HuberError {
  T delta;

  LossTerm<T> operator()(T output, T target, int64_t) const {
    const T difference = output - target, distance = std::abs(difference);
    const T slope = distance >= delta ? delta * sign(difference) : difference;
    return {distance <= delta ? difference * difference / 2 : delta * (distance - delta / 2), slope};
  }
};

// Of a probability. Neither the logarithm nor the slope becomes infinite, as in torch.
struct BinaryCrossEntropy {
  template <class T>
  LossTerm<T> operator()(T output, T target, int64_t) const {
    constexpr T kLeastLog = -100, kLeastVariance = static_cast<T>(1e-12);
    const T yes = std::max(std::log(output), kLeastLog), no = std::max(std::log1p(-output), kLeastLog);
    return {(target - 1) * no - target * yes,
            (output - target) / std::max((1 - output) * output, kLeastVariance)};
  }
};

// pos_weight: of a place.
template <class PosWeight>
struct BinaryCrossEntropyWithLogits {
  PosWeight pos_weight;

  template <class T>
  LossTerm<T> operator()(T output, T target, int64_t i) const {
    const T pos = pos_weight(i), factor = 1 + (pos - 1) * target;
    const T minus_log = std::log1p(std::exp(-std::abs(output))) + std::max(-output, T(0));
    return {(1 - target) * output + factor * minus_log, factor / (1 + std::exp(-output)) - pos * target};
  }
};

// The sum of a loss of elements, each times weight(place); grads hold the targets before.
template <class T, class Term, class Weight>
double element_loss(const Term& term, int64_t count, const T* output, const Weight& weight, T scale,
                    T* grads) {
  constexpr int kSums = 8;  // side by side in a vector
  double sums[kSums] = {};
  const auto add = [&](int64_t i, double& sum) {
    const LossTerm<T> of = term(output[i], grads[i], i);
    const T factor = weight(i);
    sum += static_cast<double>(factor * of.value);
    grads[i] = scale * (factor * of.slope);
  };
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int k = 0; k < kSums; ++k) add(i + k, sums[k]);
  }
  for (; i < count; ++i) add(i, sums[0]);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace lenet_ext::cpu
