// The steps of optimizers (engine/optimizer.h), for a single parameter.
#pragma once

#include <cmath>

#include "cuda/common/number.cuh"
#include "engine/optimizer.h"

namespace lenet_ext::cuda {

// An element of a tensor of state: 0 where there is none, which is not stored to either.
template <class Stored>
struct StateElement {
  using Compute = ComputeType<Stored>;

  __device__ Compute get() const { return place == nullptr ? Compute(0) : widen(*place); }
  __device__ Compute set(Compute value) const {
    if (place != nullptr) *place = narrow<Stored>(value);
    return value;
  }

  Stored* place;
};

// Each returns what the parameter becomes. gradient: negated where the options ask for it, and with the weight
// decay where this is not decoupled.
template <class Stored, class T = ComputeType<Stored>>
__device__ T moved(const SgdOptions& o, T gradient, T old, const StateElement<Stored>* state) {
  const T momentum = static_cast<T>(o.momentum);
  if (momentum != 0) {
    const T sum = state[0].set(momentum * state[0].get() +
                               (o.dampening != 0 ? T(1 - o.dampening) * gradient : gradient));
    gradient = o.nesterov != 0 ? gradient + momentum * sum : sum;
  }
  return old - static_cast<T>(o.lr) * gradient;
}

template <class Stored, class T = ComputeType<Stored>>
__device__ T moved(const AdamOptions& o, T gradient, T old, const StateElement<Stored>* state) {
  if (o.decoupled_weight_decay != 0) old *= static_cast<T>(1 - o.lr * o.weight_decay);
  const T mean = state[0].set(state[0].get() + T(1 - o.beta1) * (gradient - state[0].get()));
  T square = state[1].set(T(o.beta2) * state[1].get() + T(1 - o.beta2) * gradient * gradient);
  if (o.amsgrad != 0) {
    const T largest = state[2].get();
    square = state[2].set(largest > square || largest != largest ? largest : square);
  }
  return old - static_cast<T>(o.rate) * (mean / (sqrt(square) + T(o.scaled_eps)));
}

template <class Stored, class T = ComputeType<Stored>>
__device__ T moved(const RmspropOptions& o, T gradient, T old, const StateElement<Stored>* state) {
  T square = state[0].set(T(o.alpha) * state[0].get() + T(1 - o.alpha) * gradient * gradient);
  if (o.centered != 0) {
    const T mean = state[2].set(state[2].get() + T(1 - o.alpha) * (gradient - state[2].get()));
    square -= mean * mean;
  }
  T step = gradient / (sqrt(square) + T(o.eps));
  if (o.momentum > 0) step = state[1].set(T(o.momentum) * state[1].get() + step);
  return old - static_cast<T>(o.lr) * step;
}

template <class Stored, class T = ComputeType<Stored>>
__device__ T moved(const AdagradOptions& o, T gradient, T old, const StateElement<Stored>* state) {
  const T sum = state[0].set(state[0].get() + gradient * gradient);
  return old - static_cast<T>(o.lr) * (gradient / (sqrt(sum) + T(o.eps)));
}

template <class Stored, class T = ComputeType<Stored>>
__device__ T moved(const AdadeltaOptions& o, T gradient, T old, const StateElement<Stored>* state) {
  const T square = state[0].set(T(o.rho) * state[0].get() + T(1 - o.rho) * gradient * gradient);
  const T step = sqrt((state[1].get() + T(o.eps)) / (square + T(o.eps))) * gradient;
  state[1].set(T(o.rho) * state[1].get() + T(1 - o.rho) * step * step);
  return old - static_cast<T>(o.lr) * step;
}

__device__ inline bool decay_is_decoupled(const AdamOptions& o) {
  return o.decoupled_weight_decay != 0;
}
template <class Options>
__device__ bool decay_is_decoupled(const Options&) {
  return false;
}

// state: the parameter's elements of the state's tensors; null where there are none.
template <class Stored>
__device__ void optimizer_step(Optimizer optimizer, const StepRow& row, ComputeType<Stored> gradient,
                               Stored* parameter, const StateElement<Stored>* state) {
  using T = ComputeType<Stored>;
  with_options(optimizer, row.options, [&](const auto& options) {
    const T old = widen(*parameter);
    T g = options.maximize != 0 ? -gradient : gradient;
    if (options.weight_decay != 0 && !decay_is_decoupled(options)) g += T(options.weight_decay) * old;
    *parameter = narrow<Stored>(moved(options, g, old, state));
  });
}

}  // namespace lenet_ext::cuda
