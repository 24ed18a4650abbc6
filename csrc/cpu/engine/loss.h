// Losses of the fused training step, with their gradients: means over the whole batch, of which each call
// sees a few rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace lenet_ext::cpu {

// -log softmax(logits)[target], summed over the rows. logits, grads: (rows, classes); grads become those of
// the sum times `scale`. Both shifted by the largest logit, so that no exponential overflows.
template <class S, class T = typename S::Scalar>
double cross_entropy(int64_t rows, int64_t classes, const T* logits, const int64_t* targets, T scale,
                     T* grads) {
  double sum = 0;
  for (int64_t row = 0; row < rows; ++row, logits += classes, grads += classes) {
    const T largest = *std::max_element(logits, logits + classes);
    T total = 0;
    for (int64_t j = 0; j < classes; ++j) total += grads[j] = std::exp(logits[j] - largest);
    const T factor = scale / total;
    for (int64_t j = 0; j < classes; ++j) grads[j] *= factor;
    grads[targets[row]] -= scale;
    sum += static_cast<double>(std::log(total) + largest - logits[targets[row]]);
  }
  return sum;
}

// (output - target)^2, summed over `count` elements; the gradients are those of the sum times `scale`.
template <class S, class T = typename S::Scalar>
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
