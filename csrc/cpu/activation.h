// The activations and their gradients: as traits, and as one pass over memory, bound by bandwidth.
//
// A trait is made of a call, whose options it holds as vectors: value(x), and gradient(grad_output, saved), where
// saved is the output where gradient_from_output says so, else the input.
#pragma once

#include "cpu/activations/exponential.h"
#include "cpu/activations/piecewise.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// body(trait) for an activation that is not kNone.
template <class S, class Body>
void with_activation(const ActivationCall& call, const Body& body) {
  switch (call.kind) {
    case Activation::kNone:
      break;
    case Activation::kReLU:
      return body(ReLU<S>(call));
    case Activation::kLeakyReLU:
      return body(LeakyReLU<S>(call));
    case Activation::kELU:
      return body(ELU<S>(call));
    case Activation::kGELU:
      return body(GELU<S>(call));
    case Activation::kGELUTanh:
      return body(GELUTanh<S>(call));
    case Activation::kSiLU:
      return body(SiLU<S>(call));
    case Activation::kHardswish:
      return body(Hardswish<S>(call));
    case Activation::kHardtanh:
      return body(Hardtanh<S>(call));
    case Activation::kSigmoid:
      return body(Sigmoid<S>(call));
    case Activation::kTanh:
      return body(Tanh<S>(call));
    case Activation::kSoftplus:
      return body(Softplus<S>(call));
    case Activation::kHardsigmoid:
      return body(Hardsigmoid<S>(call));
    case Activation::kScale:
      return body(Scale<S>(call));
    case Activation::kExp:
      return body(Exp<S>(call));
    case Activation::kAbs:
      return body(Abs<S>(call));
  }
}
// body(offset, n) for vectors of a range; n == width except for the last. A copy of the body is called, so that
// the pointers and vectors in it stay in registers: others might be what is stored to.
template <class S, class Body>
void for_each_vector(int64_t count, const Body& body) {
  constexpr int64_t kBlock = 1024;  // vectors per item of parallel work
  const int64_t block = kBlock * S::width;
  parallel_for((count + block - 1) / block, 2 * kBlock, [&](int64_t first, int64_t last) {
    const Body copy = body;
    const int64_t end = last * block < count ? last * block : count;
    int64_t i = first * block;
    for (; i + S::width <= end; i += S::width) copy(i, S::width);
    if (i < end) copy(i, static_cast<int>(end - i));
  });
}

// output may be input.
template <class S, class Stored>
void activate(const ActivationCall& call, int64_t count, const Stored* input, Stored* output) {
  with_activation<S>(call, [&](const auto& trait) {
    for_each_vector<S>(count, [trait, input, output](int64_t i, int n) {
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
void activation_grad(const ActivationCall& call, int64_t count, const Stored* grad_output,
                     const Stored* saved, Stored* grad_input) {
  with_activation<S>(call, [&](const auto& trait) {
    for_each_vector<S>(count, [trait, grad_output, saved, grad_input](int64_t i, int n) {
      if (n == S::width) {
        S::store(grad_input + i, trait.gradient(S::load(grad_output + i), S::load(saved + i)));
      } else {
        S::store_partial(grad_input + i,
                         trait.gradient(S::load_partial(grad_output + i, n), S::load_partial(saved + i, n)),
                         n);
      }
    });
  });
}

}  // namespace lenet_ext::cpu
