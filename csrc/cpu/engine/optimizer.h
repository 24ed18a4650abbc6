// Stochastic gradient descent as torch.optim.SGD (dampening 0) does it:
//
//   g += weight_decay * p;   m = momentum * m + g;   p -= lr * (nesterov ? g + momentum * m : m)
#pragma once

#include "engine/passes.h"

namespace lenet_ext::cpu {

// `count` parameters with their gradients, factor * gradient. buffer: the running sums m, zero before the
// first step; null without momentum.
template <class S, class Stored>
void sgd(const SgdOptions& options, int64_t count, const typename S::Scalar* gradient,
         typename S::Scalar factor, Stored* buffer, Stored* parameter) {
  using T = typename S::Scalar;
  const auto decay = S::broadcast(static_cast<T>(options.weight_decay));
  const auto momentum = S::broadcast(static_cast<T>(options.momentum));
  const auto scale = S::broadcast(factor);
  const auto minus_lr = S::broadcast(static_cast<T>(-options.lr));
  const auto update = [&](auto full, int64_t i, int n) {
    const auto load = [&](const auto* p) { return full ? S::load(p + i) : S::load_partial(p + i, n); };
    const auto store = [&](Stored* p, auto v) { full ? S::store(p + i, v) : S::store_partial(p + i, v, n); };
    const auto old = load(parameter);
    auto step = S::fma(scale, load(gradient), S::fma(decay, old, S::zero()));
    if (buffer != nullptr) {
      const auto sum = S::fma(momentum, load(buffer), step);
      store(buffer, sum);
      step = options.nesterov ? S::fma(momentum, sum, step) : sum;
    }
    store(parameter, S::fma(minus_lr, step, old));
  };
  int64_t i = 0;
  for (; i + S::width <= count; i += S::width) update(std::true_type{}, i, S::width);
  if (i < count) update(std::false_type{}, i, static_cast<int>(count - i));
}

}  // namespace lenet_ext::cpu
