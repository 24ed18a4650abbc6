// linear and its gradients: contractions (contract.cuh) of row-major matrices, members as groups.
#include "cuda/contract/contract_launch.cuh"
#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {
namespace {

// A factor whose element (row, step) lies at row * row_stride + step * step_stride.
template <class Stored>
Matrix<Stored> factor(const void* data, int64_t member_stride, int64_t row_stride, int64_t steps,
                      int64_t step_stride) {
  return {static_cast<const Stored*>(data), member_stride, row_stride, level(steps, step_stride),
          step_stride == 1};
}

// output[row][out] = sum over in of input[row][in] * weight[out][in]
template <class Stored>
void forward(const LinearShape& s, const void* input, const void* weight, const void* bias, void* output) {
  launch_contract<Stored>(
      "linear", {s.members, s.rows, s.out_features, s.in_features},
      factor<Stored>(input, s.input_elements(), s.in_features, s.in_features, 1),
      factor<Stored>(weight, s.weight_elements(), s.in_features, s.in_features, 1),
      Output<Stored>{static_cast<Stored*>(output), level(s.rows, s.out_features), 1, s.output_elements(),
                     static_cast<const Stored*>(bias), s.out_features});
}

// grad_input[row][in] = sum over out of grad_output[row][out] * weight[out][in]
template <class Stored>
void input_grad(const LinearShape& s, const void* grad_output, const void* weight, void* grad_input) {
  launch_contract<Stored>("linear_input_grad", {s.members, s.rows, s.in_features, s.out_features},
                          factor<Stored>(grad_output, s.output_elements(), s.out_features, s.out_features, 1),
                          factor<Stored>(weight, s.weight_elements(), 1, s.out_features, s.in_features),
                          Output<Stored>{static_cast<Stored*>(grad_input), level(s.rows, s.in_features), 1,
                                         s.input_elements(), nullptr, s.in_features});
}

// grad_weight[out][in] = sum over rows of input[row][in] * grad_output[row][out]; the bias is the weight of
// one more input, which is always 1.
template <class Stored>
void weight_grad(const LinearShape& s, const void* grad_output, const void* input, void* grad_weight,
                 void* grad_bias) {
  Matrix<Stored> inputs = factor<Stored>(input, s.input_elements(), 1, s.rows, s.in_features);
  inputs.ones_row = s.in_features;
  WeightOutput<Stored> output{};
  output.weight = static_cast<Stored*>(grad_weight), output.bias = static_cast<Stored*>(grad_bias);
  output.rows = level(s.in_features, 1), output.column_stride = s.in_features;
  output.group_stride = s.weight_elements();
  output.bias_row = s.in_features, output.group_columns = s.out_features;
  launch_contract_splits<Stored>(
      "linear_weight_grad", {s.members, s.in_features + (grad_bias != nullptr), s.out_features, s.rows},
      inputs, factor<Stored>(grad_output, s.output_elements(), 1, s.rows, s.out_features), output);
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels&) {
  typed.linear = {
      .forward = &forward<Stored>, .input_grad = &input_grad<Stored>, .weight_grad = &weight_grad<Stored>};
});

}  // namespace
}  // namespace lenet_ext::cuda
