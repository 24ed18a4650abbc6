// The steps of optimizers (engine/optimizer.h), for a single parameter.
#pragma once

#include "cuda/common/number.cuh"
#include "engine/optimizer.h"

namespace lenet_ext::cuda {

// state: the parameter's elements of the state's tensors; null where there are none.
template <class Stored>
__device__ void sgd_step(const SgdOptions& o, ComputeType<Stored> gradient, Stored* parameter,
                         Stored* const* state) {
  using Compute = ComputeType<Stored>;
  const Compute old = widen(*parameter);
  Compute step = (o.maximize != 0 ? -gradient : gradient) + static_cast<Compute>(o.weight_decay) * old;
  const auto momentum = static_cast<Compute>(o.momentum);
  if (momentum != 0 && state[0] != nullptr) {
    const Compute sum = momentum * widen(*state[0]) + static_cast<Compute>(1 - o.dampening) * step;
    *state[0] = narrow<Stored>(sum);
    step = o.nesterov != 0 ? step + momentum * sum : sum;
  }
  *parameter = narrow<Stored>(old - static_cast<Compute>(o.lr) * step);
}

template <class Stored>
__device__ void optimizer_step(Optimizer optimizer, const double* options, ComputeType<Stored> gradient,
                               Stored* parameter, Stored* const* state) {
  switch (optimizer) {
    case Optimizer::kSgd:
      sgd_step(*reinterpret_cast<const SgdOptions*>(options), gradient, parameter, state);
  }
}

}  // namespace lenet_ext::cuda
