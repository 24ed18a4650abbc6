// The losses of a training step, with their gradients: means over the whole batch, of which each call sees an
// image.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace lenet_ext::cpu {

// -log softmax(logits)[target]; grads become those of the loss times `scale`. Both shifted by the largest
// logit, so that no exponential overflows.
template <class T>
double cross_entropy(int64_t classes, const T* logits, int64_t target, T scale, T* grads) {
  const T largest = *std::max_element(logits, logits + classes);
  T total = 0;
  for (int64_t j = 0; j < classes; ++j) total += grads[j] = std::exp(logits[j] - largest);
  const T factor = scale / total;
  for (int64_t j = 0; j < classes; ++j) grads[j] *= factor;
  grads[target] -= scale;
  // The difference comes first: beside large logits the logarithm would be rounded away.
  return static_cast<double>(std::log(total) + (largest - logits[target]));
}

// The sum of (output - target)^2; grads, which may be `target`, become those of the sum times `scale`.
template <class T>
double squared_error(int64_t count, const T* output, const T* target, T scale, T* grads) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T difference = output[i] - target[i];
    sum += static_cast<double>(difference) * static_cast<double>(difference);
    grads[i] = 2 * scale * difference;
  }
  return sum;
}

}  // namespace lenet_ext::cpu
