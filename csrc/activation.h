// The activations that kernels know. What one computes is a trait in each backend: cpu/activation.h,
// cuda/common/activation.cuh.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace lenet_ext {

enum class Activation : int32_t {
  kNone,
  kReLU,
  kLeakyReLU,  // slope
  kELU,        // alpha, scale, input_scale; SELU and CELU, too
  kGELU,       // by the error function
  kGELUTanh,   // by the hyperbolic tangent
  kSiLU,
  kHardswish,
  kHardtanh,  // min, max; ReLU6, too
  kSigmoid,
  kTanh,
  kSoftplus,  // beta, threshold
  kHardsigmoid,
  kScale,  // a, b: a x + b
  kExp,
  kAbs,
};

struct ActivationInfo {
  const char* name;
  int options;  // real numbers
};

// By Activation.
inline constexpr ActivationInfo kActivations[] = {
    {"none", 0},        {"relu", 0},      {"leaky_relu", 1}, {"elu", 3},     {"gelu", 0}, {"gelu_tanh", 0},
    {"silu", 0},        {"hardswish", 0}, {"hardtanh", 2},   {"sigmoid", 0}, {"tanh", 0}, {"softplus", 2},
    {"hardsigmoid", 0}, {"scale", 2},     {"exp", 0},        {"abs", 0},
};
inline constexpr int kMostActivationOptions = 3;

struct ActivationCall {
  Activation kind = Activation::kNone;
  double options[kMostActivationOptions] = {};

  bool operator==(const ActivationCall&) const = default;
};

// Whether activation(max(x)) is max(activation(x)), and the gradient goes to the same place: then the
// activation is left to after a max-pool, where fewer values are left. Of the functions that rise everywhere
// this is so but for rounding: two values that differ in their last bits may become one, whose place is then
// the first, and not that of the larger.
inline bool commutes_with_max_pool(const ActivationCall& call) {
  const double* const o = call.options;
  switch (call.kind) {
    case Activation::kNone:
    case Activation::kReLU:
    case Activation::kSigmoid:
    case Activation::kTanh:
    case Activation::kHardsigmoid:
      return true;
    case Activation::kHardtanh:  // no gradient where it is level
      return o[0] <= o[1];
    case Activation::kLeakyReLU:  // a slope of 0 makes NaN of -inf
      return o[0] > 0 && std::isfinite(o[0]);
    case Activation::kELU:
      return o[0] > 0 && o[1] > 0 && o[2] > 0 && std::isfinite(o[0] * o[1] * o[2]);
    case Activation::kGELU:
    case Activation::kGELUTanh:
    case Activation::kSiLU:
    case Activation::kHardswish:  // these fall, too
    case Activation::kSoftplus:   // falls a little at its threshold
    case Activation::kScale:      // two values are one where b is much larger
    case Activation::kExp:        // and where it overflows
    case Activation::kAbs:
      break;
  }
  return false;
}

// Whether the gradient follows from the output; else it takes the input.
LENET_EXT_HOST_DEVICE inline bool gradient_from_output(const ActivationCall& call) {
  const double* const o = call.options;
  switch (call.kind) {
    case Activation::kNone:
    case Activation::kReLU:
    case Activation::kHardtanh:
    case Activation::kSigmoid:
    case Activation::kTanh:
    case Activation::kHardsigmoid:  // but for the last number below 3, whose output is 1
    case Activation::kScale:
    case Activation::kExp:
      return true;
    case Activation::kLeakyReLU:
      return o[0] >= 0;
    case Activation::kELU:
      return o[0] >= 0 && o[1] > 0 && o[2] >= 0;
    case Activation::kSoftplus: {
      // The outputs of inputs just below the threshold and just above it overlap by e^-threshold.
      constexpr double kLeastThreshold = 20;
      return o[0] > 0 && o[1] >= kLeastThreshold;
    }
    case Activation::kGELU:
    case Activation::kGELUTanh:
    case Activation::kSiLU:
    case Activation::kHardswish:
    case Activation::kAbs:
      break;
  }
  return false;
}

}  // namespace lenet_ext
