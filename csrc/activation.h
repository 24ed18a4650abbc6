// The activations that kernels know. What one computes is a trait in each backend: cpu/activation.h,
// cuda/common/activation.cuh.
#pragma once

#include <cstdint>

namespace lenet_ext {

enum class Activation : int32_t { kNone, kReLU };

struct ActivationInfo {
  const char* name;
  // Whether activation(max(x)) is max(activation(x)), and the gradient goes to the same place: then the
  // activation is left to after a max-pool, where fewer values are left.
  bool commutes_with_max_pool;
};

// By Activation.
inline constexpr ActivationInfo kActivations[] = {{"none", true}, {"relu", true}};

}  // namespace lenet_ext
