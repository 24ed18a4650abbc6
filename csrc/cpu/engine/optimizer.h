// The steps of optimizers (engine/optimizer.h), a vector of parameters at a time.
#pragma once

#include <array>

#include "engine/optimizer.h"

namespace lenet_ext::cpu {

// A trait has the options as vectors, and what a step makes of a gradient, parameters and their state, which
// it changes. has_state: whether the options ask for any.
template <class S>
struct Sgd {
  using V = typename S::Vector;
  using T = typename S::Scalar;
  static constexpr int kStates = 1;

  explicit Sgd(const double* options) {
    const auto& o = *reinterpret_cast<const SgdOptions*>(options);
    minus_lr = S::broadcast(static_cast<T>(-o.lr)), momentum = S::broadcast(static_cast<T>(o.momentum));
    damped = S::broadcast(static_cast<T>(1 - o.dampening)),
    decay = S::broadcast(static_cast<T>(o.weight_decay));
    sign = o.maximize != 0 ? T(-1) : T(1);
    has_state = o.momentum != 0, is_damped = o.dampening != 0, nesterov = o.nesterov != 0;
  }

  // gradient: factor * values, where factor is already times `sign`.
  template <bool kHasState>
  V step(V factor, V values, V old, V (&state)[kStates]) const {
    V gradient = S::fma(factor, values, S::fma(decay, old, S::zero()));
    if constexpr (kHasState) {
      const V added = is_damped ? S::fma(damped, gradient, S::zero()) : gradient;
      state[0] = S::fma(momentum, state[0], added);
      gradient = nesterov ? S::fma(momentum, state[0], gradient) : state[0];
    }
    return S::fma(minus_lr, gradient, old);
  }

  V minus_lr, momentum, damped, decay;
  T sign;  // of the gradient
  bool has_state, is_damped, nesterov;
};

// body(trait) for the optimizer with these options.
template <class S, class Body>
void with_optimizer(Optimizer optimizer, const double* options, const Body& body) {
  switch (optimizer) {
    case Optimizer::kSgd:
      return body(Sgd<S>(options));
  }
}

// A step of `count` parameters, whose gradients are factor * values. state: the tensors of the trait, or
// nulls. The trait is a copy, whose vectors stay in registers: others might be what is stored to.
template <class S, class Stored, class Trait, size_t kStates>
void optimizer_step(Trait trait, int64_t count, const typename S::Scalar* values, typename S::Scalar factor,
                    const std::array<Stored*, kStates>& state, Stored* parameter) {
  const auto scale = S::broadcast(trait.sign * factor);
  const auto steps = [&]<bool kHasState>() {
    const auto update = [&](auto full, int64_t i, int n) {
      const auto load = [&](const auto* p) { return full ? S::load(p + i) : S::load_partial(p + i, n); };
      const auto store = [&](Stored* p, auto v) {
        full ? S::store(p + i, v) : S::store_partial(p + i, v, n);
      };
      typename S::Vector vectors[kStates];
      for (size_t k = 0; kHasState && k < kStates; ++k) vectors[k] = load(state[k]);
      const auto moved = trait.template step<kHasState>(scale, load(values), load(parameter), vectors);
      for (size_t k = 0; kHasState && k < kStates; ++k) store(state[k], vectors[k]);
      store(parameter, moved);
    };
    int64_t i = 0;
    for (; i + S::width <= count; i += S::width) update(std::true_type{}, i, S::width);
    if (i < count) update(std::false_type{}, i, static_cast<int>(count - i));
  };
  if (trait.has_state && state[0] != nullptr) {
    steps.template operator()<true>();
  } else {
    steps.template operator()<false>();
  }
}

}  // namespace lenet_ext::cpu
