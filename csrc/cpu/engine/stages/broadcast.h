// A parameter that is added to each image, or multiplied with it.
#pragma once

#include <algorithm>

#include "cpu/engine/stage_kernels.h"
#include "cpu/microkernels/lanes.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"
#include "engine/broadcast.h"

namespace lenet_ext::cpu {

// What the two have in common. Derived has
//   void add_parameter_grad(int64_t images, const T* x, const T* grad_output, T* sums) const;
//   void input_grad(int64_t images, const T* grad_output, T* grad_input) const;
template <class S, class Derived>
class BroadcastStage : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;
  using V = typename S::Vector;

  BroadcastStage(const Broadcast& shape, int parameter) : s_(shape), parameter_(parameter) {}

  void set_parameters(const StageParameters<T>& parameters) override {
    values_ = parameters.tensors[parameter_];
  }

  int64_t sums_size() const override { return s_.size; }
  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    const auto& self = static_cast<const Derived&>(*this);
    const StageSums<T> sums(sink, sums_size());
    if (sums.data() != nullptr) self.add_parameter_grad(call.count, call.input(0), grad_output, sums.data());
    if (grad_inputs[0] != nullptr) self.input_grad(call.count, grad_output, grad_inputs[0]);
    if (sink.takes_pieces()) sink.take({parameter_, 0, s_.size, sums.data()});
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override {
    sink.take({parameter_, 0, s_.size, sums});
  }

 protected:
  // store(to + i, function(load(from + i), values)) with the parameter's elements for these.
  template <class Function>
  void for_each_value(int64_t images, const T* from, T* to, const Function& function) const {
    const T* const values = values_;
    const int64_t steps = images * s_.outer;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t begin = step * s_.size * s_.inner;
      if (s_.inner == 1) {
        for_each_lanes<S>(s_.size, [&](int64_t i, const auto& load, const auto& store) {
          store(to + begin + i, function(load(from + begin + i), load(values + i)));
        });
        continue;
      }
      for (int64_t k = 0; k < s_.size; ++k) {
        const V value = S::broadcast(values[k]);
        const int64_t at = begin + k * s_.inner;
        for_each_lanes<S>(s_.inner, [&](int64_t i, const auto& load, const auto& store) {
          store(to + at + i, function(load(from + at + i), value));
        });
      }
    }
  }

  // sums += term(load, i) of all values i, each at the element that it has; load(p) reads p[i] and so on.
  template <class Term>
  void add_sums(int64_t images, T* sums, const Term& term) const {
    const int64_t steps = images * s_.outer;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t begin = step * s_.size * s_.inner;
      if (s_.inner == 1) {
        for_each_lanes<S>(s_.size, [&](int64_t i, const auto& load, const auto& store) {
          store(sums + i, S::add(load(sums + i), term(load, begin + i)));
        });
        continue;
      }
      for (int64_t k = 0; k < s_.size; ++k) {
        const int64_t at = begin + k * s_.inner;
        V sum = S::zero();
        for_each_lanes<S>(s_.inner, [&](int64_t i, const auto& load, const auto&) {
          sum = S::add(sum, term(load, at + i));
        });
        sums[k] += S::reduce_add(sum);
      }
    }
  }

  const Broadcast s_;

 private:
  const int parameter_;
  const T* values_ = nullptr;
};

// x + alpha * parameter
template <class S>
class ShiftStage final : public BroadcastStage<S, ShiftStage<S>> {
  using Base = BroadcastStage<S, ShiftStage<S>>;

 public:
  using typename Base::T;
  using typename Base::V;

  ShiftStage(const Broadcast& shape, int parameter, double alpha)
      : Base(shape, parameter), alpha_(static_cast<T>(alpha)) {}

  void forward(const StageCall<T>& call) const override {
    const V alpha = S::broadcast(alpha_);
    this->for_each_value(call.count, call.input(0), call.output,
                         [&](V x, V value) { return S::fma(value, alpha, x); });
  }

  void add_parameter_grad(int64_t images, const T*, const T* grad_output, T* sums) const {
    const V alpha = S::broadcast(alpha_);
    this->add_sums(images, sums,
                   [&](const auto& load, int64_t i) { return S::mul(load(grad_output + i), alpha); });
  }
  void input_grad(int64_t images, const T* grad_output, T* grad_input) const {
    copy_row<S>(grad_output, grad_input, images * this->s_.image());
  }

 private:
  const T alpha_;
};

// x * parameter
template <class S>
class GainStage final : public BroadcastStage<S, GainStage<S>> {
  using Base = BroadcastStage<S, GainStage<S>>;

 public:
  using Base::Base;
  using typename Base::T;
  using typename Base::V;

  void forward(const StageCall<T>& call) const override { multiply(call.count, call.input(0), call.output); }

  void add_parameter_grad(int64_t images, const T* x, const T* grad_output, T* sums) const {
    this->add_sums(images, sums,
                   [&](const auto& load, int64_t i) { return S::mul(load(grad_output + i), load(x + i)); });
  }
  void input_grad(int64_t images, const T* grad_output, T* grad_input) const {
    multiply(images, grad_output, grad_input);
  }

 private:
  void multiply(int64_t images, const T* from, T* to) const {
    this->for_each_value(images, from, to, [](V x, V value) { return S::mul(x, value); });
  }
};

}  // namespace lenet_ext::cpu
