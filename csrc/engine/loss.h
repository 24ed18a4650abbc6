// The losses of a training step: means over the whole batch.
#pragma once

#include <cstdint>

namespace lenet_ext {

enum class Loss : int32_t {
  kCrossEntropy,      // of logits (N, classes) and classes (N,), int64
  kMeanSquaredError,  // of outputs and targets of the same sizes and dtype
};

// By Loss.
inline constexpr const char* kLosses[] = {"cross_entropy", "mse"};

}  // namespace lenet_ext
