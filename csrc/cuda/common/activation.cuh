// What the activations compute, for a single value (activation.h). Gradients at corners and for NaN are as on
// the CPU; exponentials are CUDA's.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "activation.h"

namespace lenet_ext::cuda {

// max(x, 0); a NaN stays. The gradient is 0 where the output is not above 0, so a NaN passes it on, as in
// ATen.
struct ReLU {
  __host__ __device__ explicit ReLU(const ActivationCall&) {}
  template <class T>
  __device__ static T value(T x) {
    return x <= 0 ? T(0) : x;
  }
  template <class T>
  __device__ static T gradient(T grad_output, T output) {
    return output <= 0 ? T(0) : grad_output;
  }
};

template <class T>
__device__ T sigmoid(T x) {
  const T e = exp(-fabs(x));
  return (x <= 0 ? e : T(1)) / (1 + e);
}

// min(max(x, least), most); a NaN stays.
template <class T>
__device__ T clamped(T x, T least, T most) {
  x = x < least ? least : x;
  return x > most ? most : x;
}

// Any other than ReLU, by its number.
struct OtherActivation {
  ActivationCall call;

  __host__ __device__ explicit OtherActivation(const ActivationCall& c) : call(c) {}

  template <class T>
  __device__ T value(T x) const {
    const T a = option<T>(0), b = option<T>(1), c = option<T>(2);
    switch (call.kind) {
      case Activation::kLeakyReLU:
        return x > 0 ? x : x * a;
      case Activation::kELU:
        return x <= 0 ? expm1(x * c) * scale_alpha<T>() : x * b;
      case Activation::kGELU:
        return x * cumulative(x);
      case Activation::kGELUTanh:
        return x * sigmoid(x * (kTwice<T> * kCube<T> * x * x + kTwice<T>));
      case Activation::kSiLU:
        return x * sigmoid(x);
      case Activation::kHardswish:
        return x * clamped(x + 3, T(0), T(6)) / 6;
      case Activation::kHardtanh:
        return clamped(x, a, b);
      case Activation::kSigmoid:
        return sigmoid(x);
      case Activation::kTanh:
        return tanh(x);
      case Activation::kSoftplus:
        return x * a > b ? x : ((x * a <= 0 ? T(0) : x * a) + log1p(exp(-fabs(x * a)))) / a;
      case Activation::kHardsigmoid:
        return clamped(x + 3, T(0), T(6)) / 6;
      case Activation::kScale:
        return a * x + b;
      case Activation::kExp:
        return exp(x);
      case Activation::kAbs:
        return fabs(x);
      case Activation::kNone:
      case Activation::kReLU:
        break;
    }
    return x;
  }

  // saved: the output or the input (gradient_from_output).
  template <class T>
  __device__ T gradient(T grad_output, T saved) const {
    const T a = option<T>(0), b = option<T>(1);
    switch (call.kind) {
      case Activation::kLeakyReLU:
        return saved > 0 ? grad_output : grad_output * a;
      case Activation::kELU:
        return grad_output * elu_slope(saved);
      case Activation::kGELU: {
        constexpr T kInverseRootOf2Pi = T(0.39894228040143268);
        return grad_output * (cumulative(saved) + saved * exp(saved * saved / -2) * kInverseRootOf2Pi);
      }
      case Activation::kGELUTanh: {
        const T square = saved * saved, s = sigmoid(saved * (kTwice<T> * kCube<T> * square + kTwice<T>));
        // The rise is 0 long before the square is infinite.
        const T bounded = square > T(1e4) ? T(1e4) : square;
        return grad_output * (s + saved * s * (1 - s) * (3 * kTwice<T> * kCube<T> * bounded + kTwice<T>));
      }
      case Activation::kSiLU: {
        const T s = sigmoid(saved);
        return grad_output * s * (1 + saved * (1 - s));
      }
      case Activation::kHardswish:
        return saved <= -3 ? T(0) : saved >= 3 ? grad_output : grad_output * (saved / 3 + T(0.5));
      case Activation::kHardtanh:
        return saved <= a || saved >= b ? T(0) : grad_output;
      case Activation::kSigmoid:
        return grad_output * (1 - saved) * saved;
      case Activation::kTanh:
        return grad_output * (1 - saved * saved);
      case Activation::kSoftplus:
        return softplus_gradient(grad_output, saved * a, b);
      case Activation::kHardsigmoid:
        return saved > 0 && saved < 1 ? grad_output / 6 : T(0);
      case Activation::kScale:
        return grad_output * a;
      case Activation::kExp:
        return grad_output * saved;
      case Activation::kAbs:
        return saved > 0 ? grad_output : saved < 0 ? -grad_output : T(0);
      case Activation::kNone:
      case Activation::kReLU:
        break;
    }
    return grad_output;
  }

 private:
  template <class T>
  static constexpr T kTwice = T(1.5957691216057308);  // 2 sqrt(2 / pi)
  template <class T>
  static constexpr T kCube = T(0.044715);

  template <class T>
  __device__ T option(int i) const {
    return static_cast<T>(call.options[i]);
  }
  template <class T>
  __device__ T scale_alpha() const {
    return static_cast<T>(call.options[0] * call.options[1]);
  }
  // Of the normal distribution.
  template <class T>
  __device__ static T cumulative(T x) {
    constexpr T kRootOfHalf = T(0.70710678118654752);
    return erfc(-x * kRootOfHalf) / 2;
  }
  template <class T>
  __device__ T elu_slope(T saved) const {
    if (!(saved <= 0)) return option<T>(1);
    const T scale = option<T>(2);
    return scale *
           (gradient_from_output(call) ? saved + scale_alpha<T>() : exp(saved * scale) * scale_alpha<T>());
  }
  template <class T>
  __device__ T softplus_gradient(T grad_output, T product, T threshold) const {
    if (!gradient_from_output(call)) {
      return product > threshold ? grad_output : grad_output * sigmoid(product);
    }
    // The output at the threshold is a little above it.
    return product > threshold + 2 * exp(-threshold) ? grad_output : grad_output * -expm1(-product);
  }
};

// body(trait) for an activation that is not kNone; on the host or on the device, as the body is.
#pragma nv_exec_check_disable
template <class Body>
__host__ __device__ void with_activation(const ActivationCall& call, const Body& body) {
  if (call.kind == Activation::kReLU) return body(ReLU(call));
  if (call.kind != Activation::kNone) body(OtherActivation(call));
}

}  // namespace lenet_ext::cuda
