// linear forward, input gradient, weight and bias gradient. All matrices are row-major and dense.
#pragma once

#include "cpu/linear/matmul.h"
#include "cpu/microkernels/dot.h"
#include "shapes.h"

namespace lenet_ext::cpu {

// The same values in the compute type: the memory itself where it is stored so, else a converted copy.
template <class S, class Stored>
class Widened {
  using T = typename S::Scalar;

 public:
  Widened(const Stored* values, int64_t count) : copy_(std::is_same_v<T, Stored> ? 0 : count) {
    if constexpr (std::is_same_v<T, Stored>) {
      data_ = values;
    } else {
      copy_row<S>(values, copy_.data(), count);
      data_ = copy_.data();
    }
  }
  const T* data() const { return data_; }

 private:
  Scratch<T> copy_;
  const T* data_;
};

// A place for results in the compute type, stored at the end.
template <class S, class Stored>
class Narrowed {
  using T = typename S::Scalar;

 public:
  Narrowed(Stored* values, int64_t count) : values_(values), count_(count), copy_(kSame ? 0 : count) {}
  T* data() {
    if constexpr (kSame)
      return values_;
    else
      return copy_.data();
  }
  void store() {
    if constexpr (!kSame) copy_row<S>(copy_.data(), values_, count_);
  }

 private:
  static constexpr bool kSame = std::is_same_v<T, Stored>;
  Stored* values_;
  int64_t count_;
  Scratch<T> copy_;
};

// Below, packing the weight costs more than the horizontal sums of the dots.
inline constexpr int64_t kFewLinearRows = 12;

// For a few rows of input: dot products along the input features, which needs no packing of the weight.
template <class S>
void linear_by_dots(const LinearShape& s, const typename S::Scalar* input, const typename S::Scalar* weight,
                    const typename S::Scalar* bias, typename S::Scalar* output) {
  using T = typename S::Scalar;
  const int tile_rows = best_dot_rows<S>(s.rows, s.out_features);
  const int64_t most = std::min<int64_t>(max_columns<S>(tile_rows), s.out_features);
  std::array<int64_t, S::registers> offsets{};
  for (int64_t j = 0; j < most; ++j) offsets[j] = j * s.in_features;
  const int64_t tiles = (s.out_features + most - 1) / most;
  const int64_t cost = most * s.rows * (s.in_features / S::width + 8);
  parallel_for(tiles, cost, [&](int64_t begin, int64_t end) {
    Scratch<T> memory(S::registers * S::width);
    T* const sums = memory.data();
    for (int64_t column = begin * most; column < std::min(end * most, s.out_features); column += most) {
      const auto columns = static_cast<int>(std::min(most, s.out_features - column));
      for (int64_t row = 0; row < s.rows; row += tile_rows) {
        const auto rows = static_cast<int>(std::min<int64_t>(tile_rows, s.rows - row));
        std::fill_n(sums, rows * columns * S::width, T(0));
        DotTiles<S>::run({.a = input + row * s.in_features,
                          .a_stride = s.in_features,
                          .b = weight + column * s.in_features,
                          .b_offset = offsets.data(),
                          .run_length = s.in_features,
                          .run_count = 1,
                          .a_run_stride = 0,
                          .b_run_stride = 0,
                          .sums = sums,
                          .sums_stride = columns * S::width},
                         rows, columns);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t j = 0; j < columns; ++j) {
            const T sum = S::reduce_add(S::load(sums + (r * columns + j) * S::width));
            output[(row + r) * s.out_features + column + j] = bias[column + j] + sum;
          }
        }
      }
    }
  });
}

// output (rows, out) = input (rows, in) * weight (out, in) ^ T + bias; bias may be null.
template <class S, class Stored>
void linear(const LinearShape& s, const Stored* input, const Stored* weight, const Stored* bias,
            Stored* output) {
  using T = typename S::Scalar;
  Scratch<T> lane_bias(s.out_features);
  if (bias != nullptr) {
    copy_row<S>(bias, lane_bias.data(), s.out_features);
  } else {
    std::fill_n(lane_bias.data(), s.out_features, T(0));
  }
  const Widened<S, Stored> x(input, s.rows * s.in_features), w(weight, s.out_features * s.in_features);
  Narrowed<S, Stored> y(output, s.rows * s.out_features);
  if (s.rows < kFewLinearRows) {
    linear_by_dots<S>(s, x.data(), w.data(), lane_bias.data(), y.data());
  } else {
    matmul<S>({.rows = s.rows,
               .columns = s.out_features,
               .depth = s.in_features,
               .a = x.data(),
               .a_row_stride = s.in_features,
               .a_depth_stride = 1,
               .b = w.data(),
               .b_depth_stride = 1,
               .b_column_stride = s.in_features,
               .init = lane_bias.data(),
               .c = y.data()});
  }
  y.store();
}

// grad_input (rows, in) = grad_output (rows, out) * weight (out, in)
template <class S, class Stored>
void linear_input_grad(const LinearShape& s, const Stored* grad_output, const Stored* weight,
                       Stored* grad_input) {
  using T = typename S::Scalar;
  Scratch<T> zeros(s.in_features);
  std::fill_n(zeros.data(), s.in_features, T(0));
  const Widened<S, Stored> gy(grad_output, s.rows * s.out_features),
      w(weight, s.out_features * s.in_features);
  Narrowed<S, Stored> gx(grad_input, s.rows * s.in_features);
  matmul<S>({.rows = s.rows,
             .columns = s.in_features,
             .depth = s.out_features,
             .a = gy.data(),
             .a_row_stride = s.out_features,
             .a_depth_stride = 1,
             .b = w.data(),
             .b_depth_stride = s.in_features,
             .b_column_stride = 1,
             .init = zeros.data(),
             .c = gx.data()});
  gx.store();
}

// grad_weight (out, in) = init (in) + grad_output (rows, out) ^ T * input (rows, in)
template <class T>
MatrixProduct<T> weight_product(const LinearShape& s, const T* grad_output, const T* input, const T* init,
                                T* grad_weight) {
  return {.rows = s.out_features,
          .columns = s.in_features,
          .depth = s.rows,
          .a = grad_output,
          .a_row_stride = 1,
          .a_depth_stride = s.out_features,
          .b = input,
          .b_depth_stride = s.in_features,
          .b_column_stride = 1,
          .init = init,
          .c = grad_weight};
}

// grad_weight (out, in) = grad_output (rows, out) ^ T * input (rows, in); grad_bias (out), may be null, its
// column sums.
template <class S, class Stored>
void linear_weight_grad(const LinearShape& s, const Stored* grad_output, const Stored* input,
                        Stored* grad_weight, Stored* grad_bias) {
  using T = typename S::Scalar;
  Scratch<T> zeros(s.in_features), bias_sums(s.out_features);
  std::fill_n(zeros.data(), s.in_features, T(0));
  const Widened<S, Stored> gy(grad_output, s.rows * s.out_features), x(input, s.rows * s.in_features);
  Narrowed<S, Stored> gw(grad_weight, s.out_features * s.in_features);
  matmul<S>(weight_product<T>(s, gy.data(), x.data(), zeros.data(), gw.data()));
  gw.store();
  if (grad_bias == nullptr) return;
  std::fill_n(bias_sums.data(), s.out_features, T(0));
  for (int64_t row = 0; row < s.rows; ++row)
    add_row<S>(gy.data() + row * s.out_features, bias_sums.data(), s.out_features);
  copy_row<S>(bias_sums.data(), grad_bias, s.out_features);
}

}  // namespace lenet_ext::cpu
