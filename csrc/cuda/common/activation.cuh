// What the activations compute, for a single value (activation.h).
#pragma once

#include <cuda_runtime.h>

#include "activation.h"

namespace lenet_ext::cuda {

// max(x, 0); a NaN stays. The gradient is 0 where the output is not above 0, so a NaN passes it on, as in
// ATen.
struct ReLU {
  template <class T>
  __device__ static T value(T x) {
    return x <= 0 ? T(0) : x;
  }
  template <class T>
  __device__ static T gradient(T grad_output, T output) {
    return output <= 0 ? T(0) : grad_output;
  }
};

// body(trait) for an activation that is not kNone; on the host or on the device, as the body is.
#pragma nv_exec_check_disable
template <class Body>
__host__ __device__ void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kReLU:
      return body(ReLU{});
    case Activation::kNone:
      break;
  }
}

}  // namespace lenet_ext::cuda
