// The optimizers of a training step. What one computes is a trait in each backend: cpu/engine/optimizer.h,
// cuda/engine/optimizer.cuh.
#pragma once

#include <cstdint>
#include <span>

namespace lenet_ext {

enum class Optimizer : int32_t { kSgd };

// How Python knows an optimizer: by the name of its class in torch.optim, with the options of its parameter
// groups and the tensors of its state for each parameter.
struct OptimizerInfo {
  const char* name;
  std::span<const char* const> options, state;
};

// torch.optim.SGD:
//
//   g = maximize ? -g : g;   g += weight_decay * p;   m = momentum * m + (1 - dampening) * g
//   p -= lr * (nesterov ? g + momentum * m : m)
//
// m is 0 before the first step, in which torch leaves the dampening out. Without momentum there is none.
struct SgdOptions {
  double lr, momentum, dampening, weight_decay, nesterov, maximize;
};
inline constexpr const char* kSgdOptions[] = {"lr",           "momentum", "dampening",
                                              "weight_decay", "nesterov", "maximize"};
inline constexpr const char* kSgdState[] = {"momentum_buffer"};

// By Optimizer.
inline constexpr OptimizerInfo kOptimizers[] = {{"SGD", kSgdOptions, kSgdState}};

// Of any optimizer.
inline constexpr size_t kMostStates = [] {
  size_t most = 0;
  for (const OptimizerInfo& info : kOptimizers) most = info.state.size() > most ? info.state.size() : most;
  return most;
}();

}  // namespace lenet_ext
