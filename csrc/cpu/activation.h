// The activations and their gradients: as traits, and as one pass over memory, bound by bandwidth.
#pragma once

#include "activation.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// max(x, 0); a NaN stays. The gradient is 0 where the output is not above 0, so a NaN passes it on, as in
// ATen.
template <class S>
struct ReLU {
  using V = typename S::Vector;
  static V value(V x) { return S::max_or_nan(x, S::zero()); }
  static V gradient(V grad_output, V output) {
    return S::select(S::not_positive(output), S::zero(), grad_output);
  }
};

// body(trait) for an activation that is not kNone.
template <class S, class Body>
void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kReLU:
      return body(ReLU<S>{});
    case Activation::kNone:
      break;
  }
}

// body(offset, n) for vectors of a range; n == width except for the last.
template <class S, class Body>
void for_each_vector(int64_t count, const Body& body) {
  constexpr int64_t kBlock = 1024;  // vectors per item of parallel work
  const int64_t block = kBlock * S::width;
  parallel_for((count + block - 1) / block, 2 * kBlock, [&](int64_t first, int64_t last) {
    const int64_t end = last * block < count ? last * block : count;
    int64_t i = first * block;
    for (; i + S::width <= end; i += S::width) body(i, S::width);
    if (i < end) body(i, static_cast<int>(end - i));
  });
}

// output may be input.
template <class S, class Stored>
void activate(Activation activation, int64_t count, const Stored* input, Stored* output) {
  with_activation<S>(activation, [&](auto trait) {
    for_each_vector<S>(count, [&](int64_t i, int n) {
      if (n == S::width) {
        S::store(output + i, trait.value(S::load(input + i)));
      } else {
        S::store_partial(output + i, trait.value(S::load_partial(input + i, n)), n);
      }
    });
  });
}

// grad_input may be grad_output.
template <class S, class Stored>
void activation_grad(Activation activation, int64_t count, const Stored* grad_output, const Stored* output,
                     Stored* grad_input) {
  with_activation<S>(activation, [&](auto trait) {
    for_each_vector<S>(count, [&](int64_t i, int n) {
      if (n == S::width) {
        S::store(grad_input + i, trait.gradient(S::load(grad_output + i), S::load(output + i)));
      } else {
        S::store_partial(grad_input + i,
                         trait.gradient(S::load_partial(grad_output + i, n), S::load_partial(output + i, n)),
                         n);
      }
    });
  });
}

}  // namespace lenet_ext::cpu
