// Fills the table of kernels.h from the templates. Included by isa_<set>.cpp and isa_<set>_double.cpp only,
// two files to be compiled at the same time. The 16-bit types share the microkernels of float, and so its
// file.
#pragma once

#include "cpu/activation.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/conv2d/weight_grad.h"
#include "cpu/engine/passes.h"
#include "cpu/linear/linear.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"
#include "kernels.h"

namespace lenet_ext::cpu {

template <template <class> class Simd, class Stored>
constexpr TypedKernels make_typed_kernels() {
  using S = Simd<ComputeType<Stored>>;
  return {
      .conv2d =
          [](const Conv2dShape& shape, Format format, const void* input, const void* weight, const void* bias,
             void* output) {
            conv2d<S>(shape, format, (const Stored*)input, (const Stored*)weight, (const Stored*)bias,
                      (Stored*)output);
          },
      .conv2d_input_grad =
          [](const Conv2dShape& shape, Format format, const void* grad_output, const void* weight,
             void* grad_input) {
            conv2d_input_grad<S>(shape, format, (const Stored*)grad_output, (const Stored*)weight,
                                 (Stored*)grad_input);
          },
      .conv2d_weight_grad =
          [](const Conv2dShape& shape, Format format, const void* grad_output, const void* input,
             void* grad_weight, void* grad_bias) {
            conv2d_weight_grad<S>(shape, format, (const Stored*)grad_output, (const Stored*)input,
                                  (Stored*)grad_weight, (Stored*)grad_bias);
          },
      .max_pool2d =
          [](const MaxPool2dShape& shape, Format format, const void* input, void* output, void* taps) {
            max_pool2d<S>(shape, format, (const Stored*)input, (Stored*)output, taps);
          },
      .max_pool2d_input_grad =
          [](const MaxPool2dShape& shape, Format format, const void* grad_output, const void* taps,
             void* grad_input) {
            max_pool2d_input_grad<S>(shape, format, (const Stored*)grad_output, taps, (Stored*)grad_input);
          },
      .linear =
          [](const LinearShape& s, const void* input, const void* weight, const void* bias, void* output) {
            for_each_member<S>(s, [&](int64_t i) {
              linear<S>(s, member_of((const Stored*)input, i, s.input_elements()),
                        member_of((const Stored*)weight, i, s.weight_elements()),
                        member_of((const Stored*)bias, i, s.out_features),
                        member_of((Stored*)output, i, s.output_elements()));
            });
          },
      .linear_input_grad =
          [](const LinearShape& s, const void* grad_output, const void* weight, void* grad_input) {
            for_each_member<S>(s, [&](int64_t i) {
              linear_input_grad<S>(s, member_of((const Stored*)grad_output, i, s.output_elements()),
                                   member_of((const Stored*)weight, i, s.weight_elements()),
                                   member_of((Stored*)grad_input, i, s.input_elements()));
            });
          },
      .linear_weight_grad =
          [](const LinearShape& s, const void* grad_output, const void* input, void* grad_weight,
             void* grad_bias) {
            for_each_member<S>(s, [&](int64_t i) {
              linear_weight_grad<S>(s, member_of((const Stored*)grad_output, i, s.output_elements()),
                                    member_of((const Stored*)input, i, s.input_elements()),
                                    member_of((Stored*)grad_weight, i, s.weight_elements()),
                                    member_of((Stored*)grad_bias, i, s.out_features));
            });
          },
      .net_forward = &net_forward<S, Stored>,
      .net_backward = &net_backward<S, Stored>,
      .net_train = &net_train<S, Stored>,
      .relu = [](int64_t count, const void* input,
                 void* output) { relu<S>(count, (const Stored*)input, (Stored*)output); },
      .relu_grad =
          [](int64_t count, const void* grad_output, const void* output, void* grad_input) {
            relu_grad<S>(count, (const Stored*)grad_output, (const Stored*)output, (Stored*)grad_input);
          },
  };
}

template <template <class> class Simd, class Stored>
inline constexpr TypedKernels typed_kernels = make_typed_kernels<Simd, Stored>();

// doubles: the table of isa_<set>_double.cpp.
template <template <class> class Simd>
constexpr Kernels make_kernels(const TypedKernels& doubles) {
  return {
      {&typed_kernels<Simd, float>, &doubles, &typed_kernels<Simd, BFloat16>, &typed_kernels<Simd, Float16>}};
}

}  // namespace lenet_ext::cpu
