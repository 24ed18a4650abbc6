// The steps of optimizers (engine/optimizer.h), a vector of parameters at a time.
#pragma once

#include <array>

#include "cpu/engine/gradient_sink.h"
#include "engine/optimizer.h"

namespace lenet_ext::cpu {

// What the traits of optimizers have in common. A trait has the options as vectors, kStates, kCycles (about those
// of a vector), and
//
//   bool uses(size_t k) const                   // whether the options ask for state k
//   V step(V gradient, V old, V* state) const  // the parameters after the step
//
// which changes the state. A state that is not used is zero before, and not looked at after. It is inlined by
// command: called, all its vectors would go through memory.
template <class S, class Options>
struct OptimizerTrait {
  using V = typename S::Vector;
  using T = typename S::Scalar;

  explicit OptimizerTrait(const Options& o)
      : sign(o.maximize != 0 ? T(-1) : T(1)), decays(o.weight_decay != 0), decay(vector(o.weight_decay)) {}

  static V vector(double value) { return S::broadcast(static_cast<T>(value)); }
  V decayed(V gradient, V old) const { return decays ? S::fma(decay, old, gradient) : gradient; }
  // share * average + rest * value * value
  static V mean_square(V share, V average, V rest, V value) {
    return S::fma(S::mul(rest, value), value, S::mul(share, average));
  }

  T sign;  // of the gradient
  bool decays;
  V decay;
};

// What a step of SGD consists of, apart from weight decay.
enum class SgdKind { kPlain, kMomentum, kDampedOrNesterov };

template <class S, SgdKind kKind>
struct Sgd : OptimizerTrait<S, SgdOptions> {
  using V = typename S::Vector;
  static constexpr int kStates = kKind == SgdKind::kPlain ? 0 : 1, kCycles = 4;

  explicit Sgd(const SgdOptions& o)
      : OptimizerTrait<S, SgdOptions>(o),
        minus_lr(this->vector(-o.lr)),
        momentum(this->vector(o.momentum)),
        damped(this->vector(1 - o.dampening)),
        is_damped(o.dampening != 0),
        nesterov(o.nesterov != 0) {}

  bool uses(size_t) const { return true; }
  [[gnu::always_inline]] V step(V gradient, V old, V* state) const {
    gradient = this->decayed(gradient, old);
    if constexpr (kKind == SgdKind::kMomentum) {
      gradient = state[0] = S::fma(momentum, state[0], gradient);
    } else if constexpr (kKind == SgdKind::kDampedOrNesterov) {
      state[0] = S::fma(momentum, state[0], is_damped ? S::mul(damped, gradient) : gradient);
      gradient = nesterov ? S::fma(momentum, state[0], gradient) : state[0];
    }
    return S::fma(minus_lr, gradient, old);
  }

  V minus_lr, momentum, damped;
  bool is_damped, nesterov;
};

// And AdamW.
template <class S>
struct Adam : OptimizerTrait<S, AdamOptions> {
  using V = typename S::Vector;
  static constexpr int kStates = 3, kCycles = 24;

  explicit Adam(const AdamOptions& o)
      : OptimizerTrait<S, AdamOptions>(o),
        minus_rate(this->vector(-o.rate)),
        eps(this->vector(o.scaled_eps)),
        rest1(this->vector(1 - o.beta1)),
        beta2(this->vector(o.beta2)),
        rest2(this->vector(1 - o.beta2)),
        kept(this->vector(1)),
        amsgrad(o.amsgrad != 0) {
    if (o.decoupled_weight_decay != 0) kept = this->vector(1 - o.lr * o.weight_decay), this->decays = false;
  }

  bool uses(size_t k) const { return k < 2 || amsgrad; }
  [[gnu::always_inline]] V step(V gradient, V old, V* state) const {
    gradient = this->decayed(gradient, old);
    state[0] = S::fma(rest1, S::sub(gradient, state[0]), state[0]);
    state[1] = this->mean_square(beta2, state[1], rest2, gradient);
    if (amsgrad) state[2] = S::max_of(state[2], state[1]);
    const V root = S::add(S::sqrt(amsgrad ? state[2] : state[1]), eps);
    return S::fma(minus_rate, S::div(state[0], root), S::mul(kept, old));
  }

  V minus_rate, eps, rest1, beta2, rest2, kept;
  bool amsgrad;
};

template <class S>
struct Rmsprop : OptimizerTrait<S, RmspropOptions> {
  using V = typename S::Vector;
  static constexpr int kStates = 3, kCycles = 24;

  explicit Rmsprop(const RmspropOptions& o)
      : OptimizerTrait<S, RmspropOptions>(o),
        minus_lr(this->vector(-o.lr)),
        momentum(this->vector(o.momentum)),
        alpha(this->vector(o.alpha)),
        rest(this->vector(1 - o.alpha)),
        eps(this->vector(o.eps)),
        has_momentum(o.momentum > 0),
        centered(o.centered != 0) {}

  bool uses(size_t k) const { return k == 0 || (k == 1 ? has_momentum : centered); }
  [[gnu::always_inline]] V step(V gradient, V old, V* state) const {
    gradient = this->decayed(gradient, old);
    state[0] = this->mean_square(alpha, state[0], rest, gradient);
    V square = state[0];
    if (centered) {
      state[2] = S::fma(rest, S::sub(gradient, state[2]), state[2]);
      square = S::fma(S::sub(S::zero(), state[2]), state[2], square);
    }
    V moved = S::div(gradient, S::add(S::sqrt(square), eps));
    if (has_momentum) moved = state[1] = S::fma(momentum, state[1], moved);
    return S::fma(minus_lr, moved, old);
  }

  V minus_lr, momentum, alpha, rest, eps;
  bool has_momentum, centered;
};

template <class S>
struct Adagrad : OptimizerTrait<S, AdagradOptions> {
  using V = typename S::Vector;
  static constexpr int kStates = 1, kCycles = 20;

  explicit Adagrad(const AdagradOptions& o)
      : OptimizerTrait<S, AdagradOptions>(o), minus_lr(this->vector(-o.lr)), eps(this->vector(o.eps)) {}

  bool uses(size_t) const { return true; }
  [[gnu::always_inline]] V step(V gradient, V old, V* state) const {
    gradient = this->decayed(gradient, old);
    state[0] = S::fma(gradient, gradient, state[0]);
    return S::fma(minus_lr, S::div(gradient, S::add(S::sqrt(state[0]), eps)), old);
  }

  V minus_lr, eps;
};

template <class S>
struct Adadelta : OptimizerTrait<S, AdadeltaOptions> {
  using V = typename S::Vector;
  static constexpr int kStates = 2, kCycles = 24;

  explicit Adadelta(const AdadeltaOptions& o)
      : OptimizerTrait<S, AdadeltaOptions>(o),
        minus_lr(this->vector(-o.lr)),
        rho(this->vector(o.rho)),
        rest(this->vector(1 - o.rho)),
        eps(this->vector(o.eps)) {}

  bool uses(size_t) const { return true; }
  [[gnu::always_inline]] V step(V gradient, V old, V* state) const {
    gradient = this->decayed(gradient, old);
    state[0] = this->mean_square(rho, state[0], rest, gradient);
    const V ratio = S::div(S::add(state[1], eps), S::add(state[0], eps));
    const V moved = S::mul(S::sqrt(ratio), gradient);
    state[1] = this->mean_square(rho, state[1], rest, moved);
    return S::fma(minus_lr, moved, old);
  }

  V minus_lr, rho, rest, eps;
};

// body(trait) for an optimizer's options. The step of SGD is little more than its loads and stores: where it
// were to ask at each vector what it consists of, the questions would be much of its time.
template <class S, class Body>
void with_trait(const SgdOptions& options, const Body& body) {
  if (options.momentum == 0) return body(Sgd<S, SgdKind::kPlain>(options));
  if (options.dampening == 0 && options.nesterov == 0) return body(Sgd<S, SgdKind::kMomentum>(options));
  body(Sgd<S, SgdKind::kDampedOrNesterov>(options));
}
template <class S, class Body>
void with_trait(const AdamOptions& options, const Body& body) {
  body(Adam<S>(options));
}
template <class S, class Body>
void with_trait(const RmspropOptions& options, const Body& body) {
  body(Rmsprop<S>(options));
}
template <class S, class Body>
void with_trait(const AdagradOptions& options, const Body& body) {
  body(Adagrad<S>(options));
}
template <class S, class Body>
void with_trait(const AdadeltaOptions& options, const Body& body) {
  body(Adadelta<S>(options));
}

template <class S, class Body>
void with_optimizer(Optimizer optimizer, const StepRow& row, const Body& body) {
  with_options(optimizer, row.options, [&](const auto& options) { with_trait<S>(options, body); });
}

// A step of a part of a parameter. state: the tensors of the trait, or nulls. The trait is a copy, whose vectors
// stay in registers: others might be what is stored to.
template <class S, class Stored, class Trait>
void optimizer_step(Trait trait, const GradientPiece<typename S::Scalar>& piece,
                    std::array<Stored*, Trait::kStates> state, Stored* parameter) {
  bool all = true;
  for (int k = 0; k < Trait::kStates; ++k) {
    if (state[k] != nullptr) state[k] += piece.first;
    if (!trait.uses(k)) state[k] = nullptr;
    all = all && state[k] != nullptr;
  }
  parameter += piece.first;
  const auto steps = [&](auto every) {
    const int64_t count = piece.count;
    for (int64_t r = 0, i = 0; r < piece.rows; ++r) {
      const auto factor = S::broadcast(trait.sign * piece.factors[r]);
      const auto* values = piece.values;
      const auto update = [&](auto full, int n) {
        const auto load = [&](const auto* p) { return full ? S::load(p) : S::load_partial(p, n); };
        const auto store = [&](Stored* p, auto v) { full ? S::store(p, v) : S::store_partial(p, v, n); };
        typename S::Vector vectors[Trait::kStates + 1];
        for (int k = 0; k < Trait::kStates; ++k) {
          vectors[k] = every || state[k] != nullptr ? load(state[k] + i) : S::zero();
        }
        const auto moved = trait.step(S::mul(factor, load(values)), load(parameter + i), vectors);
        for (int k = 0; k < Trait::kStates; ++k) {
          if (every || state[k] != nullptr) store(state[k] + i, vectors[k]);
        }
        store(parameter + i, moved);
        values += n, i += n;
      };
      for (int64_t j = S::width; j <= count; j += S::width) update(std::true_type{}, S::width);
      if (count % S::width != 0) update(std::false_type{}, static_cast<int>(count % S::width));
    }
  };
  all ? steps(std::true_type{}) : steps(std::false_type{});
}

}  // namespace lenet_ext::cpu
