// relu and its gradient: one pass over memory, bound by bandwidth.
#pragma once

#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// body(offset, n) for vectors of a range: n == width except for the last.
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

// output = max(input, 0); NaN stays. output may be input.
template <class S, class Stored>
void relu(int64_t count, const Stored* input, Stored* output) {
  for_each_vector<S>(count, [&](int64_t i, int n) {
    if (n == S::width) {
      S::store(output + i, S::max_or_nan(S::load(input + i), S::zero()));
    } else {
      S::store_partial(output + i, S::max_or_nan(S::load_partial(input + i, n), S::zero()), n);
    }
  });
}

// grad_input = grad_output where not output <= 0 (so a NaN passes the gradient on, as in ATen), else 0.
template <class S, class Stored>
void relu_grad(int64_t count, const Stored* grad_output, const Stored* output, Stored* grad_input) {
  for_each_vector<S>(count, [&](int64_t i, int n) {
    if (n == S::width) {
      const auto closed = S::not_positive(S::load(output + i));
      S::store(grad_input + i, S::select(closed, S::zero(), S::load(grad_output + i)));
    } else {
      const auto closed = S::not_positive(S::load_partial(output + i, n));
      S::store_partial(grad_input + i, S::select(closed, S::zero(), S::load_partial(grad_output + i, n)), n);
    }
  });
}

}  // namespace lenet_ext::cpu
