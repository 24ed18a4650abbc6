// The layers of several inputs in the fused engine: sums, products, and what is joined along a dimension.
#pragma once

#include <vector>

#include "cpu/engine/stage_kernels.h"
#include "cpu/microkernels/lanes.h"
#include "cpu/microkernels/transpose.h"

namespace lenet_ext::cpu {

// a + alpha * b
template <class S>
class AddStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // size: elements of one image.
  AddStage(int64_t size, double alpha) : size_(size), alpha_(static_cast<T>(alpha)) {}

  void forward(const StageCall<T>& call) const override {
    const T *const a = call.input(0), *const b = call.input(1);
    const auto alpha = S::broadcast(alpha_);
    for_each_lanes<S>(call.count * size_, [&](int64_t i, const auto& load, const auto& store) {
      store(call.output + i, S::fma(load(b + i), alpha, load(a + i)));
    });
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    const int64_t count = call.count * size_;
    if (grad_inputs[0] != nullptr) copy_row<S>(grad_output, grad_inputs[0], count);
    if (grad_inputs[1] == nullptr) return;
    const auto alpha = S::broadcast(alpha_);
    for_each_lanes<S>(count, [&](int64_t i, const auto& load, const auto& store) {
      store(grad_inputs[1] + i, S::mul(load(grad_output + i), alpha));
    });
  }

 private:
  const int64_t size_;
  const T alpha_;
};

// a * b
template <class S>
class MulStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  explicit MulStage(int64_t size) : size_(size) {}

  void forward(const StageCall<T>& call) const override {
    multiply(call.count, call.input(0), call.input(1), call.output);
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    for (int i = 0; i < 2; ++i) {
      if (grad_inputs[i] != nullptr) multiply(call.count, grad_output, call.input(1 - i), grad_inputs[i]);
    }
  }

 private:
  void multiply(int64_t images, const T* a, const T* b, T* product) const {
    for_each_lanes<S>(images * size_, [&](int64_t i, const auto& load, const auto& store) {
      store(product + i, S::mul(load(a + i), load(b + i)));
    });
  }

  const int64_t size_;
};

// The inputs one after the other along a dimension.
template <class S>
class ConcatStage final : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // Of one image: elements of an input from one step of the dimensions before the joined one to the next; how
  // many steps these have.
  ConcatStage(std::vector<int64_t> run_sizes, int64_t runs) : run_sizes_(std::move(run_sizes)), runs_(runs) {}

  void forward(const StageCall<T>& call) const override {
    for_each_run(call.count, [&](size_t input, int64_t at, int64_t joined_at, int64_t size) {
      copy_row<S>(call.input(input) + at, call.output + joined_at, size);
    });
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>&) const override {
    for_each_run(call.count, [&](size_t input, int64_t at, int64_t joined_at, int64_t size) {
      if (grad_inputs[input] != nullptr) copy_row<S>(grad_output + joined_at, grad_inputs[input] + at, size);
    });
  }

 private:
  // body(input, at, joined_at, size): where runs begin in an input and in the output.
  template <class Body>
  void for_each_run(int64_t images, const Body& body) const {
    int64_t joined_at = 0;
    for (int64_t run = 0; run < images * runs_; ++run) {
      for (size_t input = 0; input < run_sizes_.size(); ++input) {
        const int64_t size = run_sizes_[input];
        body(input, run * size, joined_at, size);
        joined_at += size;
      }
    }
  }

  const std::vector<int64_t> run_sizes_;
  const int64_t runs_;
};

}  // namespace lenet_ext::cpu
