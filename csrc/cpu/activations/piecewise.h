// The activations that are made of straight lines, and what of them follows from what. At their corners, and
// for NaN, gradients are ATen's.
#pragma once

#include "activation.h"

namespace lenet_ext::cpu {

// max(x, 0); a NaN stays. The gradient is 0 where the output is not above 0, so a NaN passes it on, as in
// ATen.
template <class S>
struct ReLU {
  using V = typename S::Vector;
  explicit ReLU(const ActivationCall&) {}
  static V value(V x) { return S::max_or_nan(x, S::zero()); }
  static V gradient(V grad_output, V output) {
    return S::select(S::not_positive(output), S::zero(), grad_output);
  }
};

// saved: the output, or where the slope is negative the input.
template <class S>
struct LeakyReLU {
  using V = typename S::Vector;
  V slope;
  explicit LeakyReLU(const ActivationCall& call) : slope(S::broadcast(call.options[0])) {}
  V value(V x) const { return S::select(S::positive(x), x, S::mul(x, slope)); }
  V gradient(V grad_output, V saved) const {
    return S::select(S::positive(saved), grad_output, S::mul(grad_output, slope));
  }
};

template <class S>
struct Hardtanh {
  using V = typename S::Vector;
  V least, most;
  explicit Hardtanh(const ActivationCall& call)
      : least(S::broadcast(call.options[0])), most(S::broadcast(call.options[1])) {}
  V value(V x) const { return S::min_or_nan(S::max_or_nan(x, least), most); }
  V gradient(V grad_output, V output) const {
    const V below_most = S::select(S::less_equal(most, output), S::zero(), grad_output);
    return S::select(S::less_equal(output, least), S::zero(), below_most);
  }
};

// min(max(x + 3, 0), 6)
template <class S>
typename S::Vector relu6_of_3_more(typename S::Vector x) {
  return S::min_or_nan(S::max_or_nan(S::add(x, S::broadcast(3)), S::zero()), S::broadcast(6));
}

// min(max(x + 3, 0), 6) / 6; no gradient for a NaN.
template <class S>
struct Hardsigmoid {
  using V = typename S::Vector;
  explicit Hardsigmoid(const ActivationCall&) {}
  static V value(V x) { return S::div(relu6_of_3_more<S>(x), S::broadcast(6)); }
  static V gradient(V grad_output, V output) {
    const V inside = S::mul(grad_output, S::broadcast(1.0 / 6));
    const V below_1 = S::select(S::positive(S::sub(S::broadcast(1), output)), inside, S::zero());
    return S::select(S::positive(output), below_1, S::zero());
  }
};

// x hardsigmoid(x)
template <class S>
struct Hardswish {
  using V = typename S::Vector;
  explicit Hardswish(const ActivationCall&) {}
  static V value(V x) { return S::div(S::mul(x, relu6_of_3_more<S>(x)), S::broadcast(6)); }
  static V gradient(V grad_output, V input) {
    const V three = S::broadcast(3);
    const V slope = S::add(S::div(input, three), S::broadcast(0.5));
    const V below_3 = S::select(S::less_equal(three, input), grad_output, S::mul(grad_output, slope));
    return S::select(S::less_equal(input, S::broadcast(-3)), S::zero(), below_3);
  }
};

// |x|; no gradient for 0 and NaN.
template <class S>
struct Abs {
  using V = typename S::Vector;
  explicit Abs(const ActivationCall&) {}
  static V value(V x) { return S::abs(x); }
  static V gradient(V grad_output, V input) {
    const V minus_input = S::sub(S::zero(), input), minus_grad = S::sub(S::zero(), grad_output);
    const V not_above = S::select(S::positive(minus_input), minus_grad, S::zero());
    return S::select(S::positive(input), grad_output, not_above);
  }
};

// a x + b
template <class S>
struct Scale {
  using V = typename S::Vector;
  V a, b;
  explicit Scale(const ActivationCall& call)
      : a(S::broadcast(call.options[0])), b(S::broadcast(call.options[1])) {}
  V value(V x) const { return S::fma(x, a, b); }
  V gradient(V grad_output, V) const { return S::mul(grad_output, a); }
};

}  // namespace lenet_ext::cpu
