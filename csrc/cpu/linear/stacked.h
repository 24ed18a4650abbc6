// linear and its gradients for stacks: a product for each member, one after the other in all arrays.
#pragma once

#include "cpu/linear/linear.h"

namespace lenet_ext::cpu {

// body(member): several members at once or, where one is enough work for all threads, one after the other.
template <class S, class Body>
void for_each_member(const LinearShape& s, const Body& body) {
  constexpr int64_t kWorkForAll = 4'000'000;  // cycles
  const int64_t cost = s.output_elements() * (s.in_features / S::width + 1);
  if (s.members == 1 || cost >= kWorkForAll) {
    for (int64_t member = 0; member < s.members; ++member) body(member);
  } else {
    parallel_for(s.members, cost, [&](int64_t begin, int64_t end) {
      for (int64_t member = begin; member < end; ++member) body(member);
    });
  }
}

template <class Stored>
Stored* member_of(Stored* first, int64_t member, int64_t elements) {
  return first == nullptr ? nullptr : first + member * elements;
}

template <class S, class Stored>
void stacked_linear(const LinearShape& s, const Stored* input, const Stored* weight, const Stored* bias,
                    Stored* output) {
  for_each_member<S>(s, [&](int64_t i) {
    linear<S>(s, member_of(input, i, s.input_elements()), member_of(weight, i, s.weight_elements()),
              member_of(bias, i, s.out_features), member_of(output, i, s.output_elements()));
  });
}

template <class S, class Stored>
void stacked_linear_input_grad(const LinearShape& s, const Stored* grad_output, const Stored* weight,
                               Stored* grad_input) {
  for_each_member<S>(s, [&](int64_t i) {
    linear_input_grad<S>(s, member_of(grad_output, i, s.output_elements()),
                         member_of(weight, i, s.weight_elements()),
                         member_of(grad_input, i, s.input_elements()));
  });
}

template <class S, class Stored>
void stacked_linear_weight_grad(const LinearShape& s, const Stored* grad_output, const Stored* input,
                                Stored* grad_weight, Stored* grad_bias) {
  for_each_member<S>(s, [&](int64_t i) {
    linear_weight_grad<S>(
        s, member_of(grad_output, i, s.output_elements()), member_of(input, i, s.input_elements()),
        member_of(grad_weight, i, s.weight_elements()), member_of(grad_bias, i, s.out_features));
  });
}

}  // namespace lenet_ext::cpu
