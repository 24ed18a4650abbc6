// The activations that are made of exponentials. For infinities and NaN, results are ATen's.
#pragma once

#include <cmath>

#include "activation.h"
#include "cpu/math/log1p.h"
#include "cpu/math/normal.h"
#include "cpu/math/sigmoid.h"

namespace lenet_ext::cpu {

template <class S>
struct Sigmoid {
  using V = typename S::Vector;
  explicit Sigmoid(const ActivationCall&) {}
  static V value(V x) { return math::sigmoid<S>(x); }
  static V gradient(V grad_output, V output) {
    return S::mul(S::mul(grad_output, S::sub(S::broadcast(1), output)), output);
  }
};

template <class S>
struct Tanh {
  using V = typename S::Vector;
  explicit Tanh(const ActivationCall&) {}
  static V value(V x) { return math::tanh<S>(x); }
  static V gradient(V grad_output, V output) {
    return S::mul(grad_output, S::sub(S::broadcast(1), S::mul(output, output)));
  }
};

template <class S>
struct Exp {
  using V = typename S::Vector;
  explicit Exp(const ActivationCall&) {}
  static V value(V x) { return math::exp<S>(x); }
  static V gradient(V grad_output, V output) { return S::mul(grad_output, output); }
};

// scale x where x > 0, else scale alpha (e^(input_scale x) - 1).
template <class S>
struct ELU {
  using V = typename S::Vector;
  V scale, scale_alpha, input_scale;
  bool from_output;
  explicit ELU(const ActivationCall& call)
      : scale(S::broadcast(call.options[1])),
        scale_alpha(S::broadcast(call.options[0] * call.options[1])),
        input_scale(S::broadcast(call.options[2])),
        from_output(gradient_from_output(call)) {}
  V value(V x) const {
    const V below = S::mul(math::expm1<S>(S::mul(x, input_scale)), scale_alpha);
    return S::select(S::not_positive(x), below, S::mul(x, scale));
  }
  V gradient(V grad_output, V saved) const {
    const V power = from_output ? S::add(saved, scale_alpha)
                                : S::mul(math::exp<S>(S::mul(saved, input_scale)), scale_alpha);
    const V slope = S::select(S::not_positive(saved), S::mul(input_scale, power), scale);
    return S::mul(grad_output, slope);
  }
};

// ln(1 + e^(beta x)) / beta, or x where beta x is above the threshold.
template <class S>
struct Softplus {
  using V = typename S::Vector;
  V beta, threshold, saved_threshold;
  bool from_output;
  explicit Softplus(const ActivationCall& call)
      : beta(S::broadcast(call.options[0])),
        threshold(S::broadcast(call.options[1])),
        from_output(gradient_from_output(call)) {
    // The output at the threshold is a little above it.
    const double excess = from_output ? 2 * std::exp(-call.options[1]) : 0;
    saved_threshold = S::broadcast(call.options[1] + excess);
  }
  V value(V x) const {
    const V product = S::mul(x, beta), e = math::exp<S>(S::sub(S::zero(), S::abs(product)));
    const V logarithm = S::add(S::max_or_nan(product, S::zero()), math::log1p_of_0_to_1<S>(e));
    return S::select(is_above(product, threshold), x, S::div(logarithm, beta));
  }
  V gradient(V grad_output, V saved) const {
    const V product = S::mul(saved, beta);
    const V slope = from_output ? S::sub(S::zero(), math::expm1<S>(S::sub(S::zero(), product)))
                                : math::sigmoid<S>(product);
    return S::select(is_above(product, saved_threshold), grad_output, S::mul(grad_output, slope));
  }

 private:
  static typename S::Mask is_above(V product, V bound) { return S::positive(S::sub(product, bound)); }
};

// x sigmoid(x)
template <class S>
struct SiLU {
  using V = typename S::Vector;
  explicit SiLU(const ActivationCall&) {}
  static V value(V x) { return S::mul(x, math::sigmoid<S>(x)); }
  static V gradient(V grad_output, V input) {
    const V s = math::sigmoid<S>(input), one = S::broadcast(1);
    return S::mul(grad_output, S::mul(s, S::fma(input, S::sub(one, s), one)));
  }
};

// x times the share of a normal distribution that is below x.
template <class S>
struct GELU {
  using V = typename S::Vector;
  explicit GELU(const ActivationCall&) {}
  static V value(V x) { return S::mul(x, math::Normal<S>(x).cumulative); }
  static V gradient(V grad_output, V input) {
    const math::Normal<S> normal(input);
    return S::mul(grad_output, S::fma(input, normal.density, normal.cumulative));
  }
};

// x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3); as x sigmoid(2 u) it keeps its last bits below 0.
template <class S>
struct GELUTanh {
  using V = typename S::Vector;
  explicit GELUTanh(const ActivationCall&) {}
  static V value(V x) { return S::mul(x, share(x)); }
  static V gradient(V grad_output, V input) {
    const V s = share(input), one = S::broadcast(1);
    // The rise is 0 long before the square is infinite.
    const V square = S::min_or_nan(S::mul(input, input), S::broadcast(1e4));
    const V steepness = S::fma(square, S::broadcast(3 * kTwice * kCube), S::broadcast(kTwice));
    const V rise = S::mul(S::mul(S::mul(input, s), S::sub(one, s)), steepness);
    return S::mul(grad_output, S::add(s, rise));
  }

 private:
  static constexpr double kTwice = 1.5957691216057308, kCube = 0.044715;  // 2 sqrt(2 / pi)
  static V share(V x) {
    const V factor = S::fma(S::mul(x, x), S::broadcast(kTwice * kCube), S::broadcast(kTwice));
    return math::sigmoid<S>(S::mul(x, factor));
  }
};

}  // namespace lenet_ext::cpu
