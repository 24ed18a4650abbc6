// The optimizers of a training step. What one computes is a trait in each backend: cpu/engine/optimizer.h,
// cuda/engine/optimizer.cuh.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include "host_device.h"

namespace lenet_ext {

enum class Optimizer : int32_t { kSgd, kAdam, kAdamW, kRmsprop, kAdagrad, kAdadelta };

// How Python knows an optimizer: by the name of its class in torch.optim, with the options of its parameter
// groups (the elements of a tuple by their places) and the tensors of its state for each parameter. Their
// order is that of the fields of its options and of its trait's state. counts_steps: whether torch keeps the
// number of steps of each parameter as well, as `step`.
struct OptimizerInfo {
  const char* name;
  std::span<const char* const> options, state;
  bool counts_steps;
};

// In all formulas g is the gradient, negated where `maximize` says so, p the parameter. What begins as g += is
// left out where the weight decay is 0. at_step makes of the options what they are in the step of this number,
// counted from 1, where they depend on it.

// torch.optim.SGD:
//
//   g += weight_decay * p;   m = momentum * m + (1 - dampening) * g
//   p -= lr * (nesterov ? g + momentum * m : m)
//
// m is 0 before the first step, in which torch leaves the dampening out. Without momentum there is none.
struct SgdOptions {
  double lr, momentum, dampening, weight_decay, nesterov, maximize;

  LENET_EXT_HOST_DEVICE void at_step(double) {}
};
inline constexpr const char* kSgdOptions[] = {"lr",           "momentum", "dampening",
                                              "weight_decay", "nesterov", "maximize"};
inline constexpr const char* kSgdState[] = {"momentum_buffer"};

// torch.optim.Adam; AdamW is Adam with decoupled_weight_decay:
//
//   decoupled_weight_decay ? p *= 1 - lr * weight_decay : g += weight_decay * p
//   m += (1 - beta1) * (g - m);   v = beta2 * v + (1 - beta2) * g * g
//   w = amsgrad ? (largest = max(largest, v)) : v
//   p -= lr / (1 - beta1^step) * m / (sqrt(w / (1 - beta2^step)) + eps)
//
// which is computed as p -= rate * m / (sqrt(w) + scaled_eps).
struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay;
  double rate, scaled_eps;  // of this step

  LENET_EXT_HOST_DEVICE void at_step(double step) {
    const double root = std::sqrt(1 - std::pow(beta2, step));
    rate = lr / (1 - std::pow(beta1, step)) * root, scaled_eps = eps * root;
  }
};
inline constexpr const char* kAdamOptions[] = {
    "lr", "betas[0]", "betas[1]", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"};
inline constexpr const char* kAdamState[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};

// torch.optim.RMSprop:
//
//   g += weight_decay * p;   v = alpha * v + (1 - alpha) * g * g;   mean += (1 - alpha) * (g - mean)
//   u = g / (sqrt(centered ? v - mean * mean : v) + eps);   m = momentum * m + u
//   p -= lr * (momentum > 0 ? m : u)
//
// As in torch, a variance that rounding has made negative makes a NaN.
struct RmspropOptions {
  double lr, momentum, alpha, eps, centered, weight_decay, maximize;

  LENET_EXT_HOST_DEVICE void at_step(double) {}
};
inline constexpr const char* kRmspropOptions[] = {"lr",       "momentum",     "alpha",   "eps",
                                                  "centered", "weight_decay", "maximize"};
inline constexpr const char* kRmspropState[] = {"square_avg", "momentum_buffer", "grad_avg"};

// torch.optim.Adagrad:
//
//   g += weight_decay * p;   sum += g * g;   p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(sum) + eps)
struct AdagradOptions {
  double lr, lr_decay, eps, weight_decay, maximize;

  LENET_EXT_HOST_DEVICE void at_step(double step) { lr /= 1 + (step - 1) * lr_decay; }
};
inline constexpr const char* kAdagradOptions[] = {"lr", "lr_decay", "eps", "weight_decay", "maximize"};
inline constexpr const char* kAdagradState[] = {"sum"};

// torch.optim.Adadelta:
//
//   g += weight_decay * p;   v = rho * v + (1 - rho) * g * g;   d = sqrt((a + eps) / (v + eps)) * g
//   a = rho * a + (1 - rho) * d * d;   p -= lr * d
struct AdadeltaOptions {
  double lr, rho, eps, weight_decay, maximize;

  LENET_EXT_HOST_DEVICE void at_step(double) {}
};
inline constexpr const char* kAdadeltaOptions[] = {"lr", "rho", "eps", "weight_decay", "maximize"};
inline constexpr const char* kAdadeltaState[] = {"square_avg", "acc_delta"};

// By Optimizer.
inline constexpr OptimizerInfo kOptimizers[] = {
    {"SGD", kSgdOptions, kSgdState, false},
    {"Adam", kAdamOptions, kAdamState, true},
    {"AdamW", kAdamOptions, kAdamState, true},
    {"RMSprop", kRmspropOptions, kRmspropState, true},
    {"Adagrad", kAdagradOptions, kAdagradState, true},
    {"Adadelta", kAdadeltaOptions, kAdadeltaState, true},
};

// `From` as another type, constant where it is.
template <class Options, class From>
LENET_EXT_HOST_DEVICE auto& options_as(From* options) {
  using Result = std::conditional_t<std::is_const_v<From>, const Options, Options>;
  return *reinterpret_cast<Result*>(options);
}

// body(options) for the optimizer's own struct of the options, doubles that lie at `options`.
template <class Double, class Body>
LENET_EXT_HOST_DEVICE void with_options(Optimizer optimizer, Double* options, const Body& body) {
  switch (optimizer) {
    case Optimizer::kSgd:
      return body(options_as<SgdOptions>(options));
    case Optimizer::kAdam:
    case Optimizer::kAdamW:
      return body(options_as<AdamOptions>(options));
    case Optimizer::kRmsprop:
      return body(options_as<RmspropOptions>(options));
    case Optimizer::kAdagrad:
      return body(options_as<AdagradOptions>(options));
    case Optimizer::kAdadelta:
      return body(options_as<AdadeltaOptions>(options));
  }
}

// Of any optimizer: the tensors of state, and the doubles of its options.
inline constexpr size_t kMostStates = 3;
inline constexpr size_t kMostOptions = sizeof(AdamOptions) / sizeof(double);

// A row of a training pass for one parameter: whether it is trained, and its options as they are in a step.
struct StepRow {
  double trained, options[kMostOptions];
};

// row: 1 or 0 and `count` options as Python gives them. steps: how many the parameter has taken, which becomes
// one more if it is trained; or null.
LENET_EXT_HOST_DEVICE inline void begin_step(Optimizer optimizer, const double* row, int64_t count,
                                             float* steps, StepRow* result) {
  result->trained = row[0];
  for (int64_t i = 0; i < count; ++i) result->options[i] = row[1 + i];
  if (row[0] == 0) return;
  double step = 1;
  if (steps != nullptr) step = *steps += 1;
  with_options(optimizer, result->options, [&](auto& options) { options.at_step(step); });
}

}  // namespace lenet_ext
