// The activations that kernels know. What one computes is a trait in each backend: cpu/activation.h,
// cuda/common/activation.cuh.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace lenet_ext {

enum class Activation : int32_t { kNone, kReLU };

struct ActivationInfo {
  const char* name;
  size_t options;  // real numbers that it takes
  // Whether activation(max(x)) is max(activation(x)), and the gradient goes to the same place: then the
  // activation is left to after a max-pool, where fewer values are left.
  bool commutes_with_max_pool;
};

// By Activation.
inline constexpr ActivationInfo kActivations[] = {{"none", 0, true}, {"relu", 0, true}};

// An activation with its options.
struct ActivationCall {
  Activation kind = Activation::kNone;
  std::array<double, 3> options{};

  bool commutes_with_max_pool() const { return kActivations[static_cast<int>(kind)].commutes_with_max_pool; }
  bool gradient_from_output() const { return true; }
};

}  // namespace lenet_ext
