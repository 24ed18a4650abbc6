// Loaders and sinks of contract.cuh for matrices whose rows and steps lie at regular distances.
#pragma once

#include "cuda/number.cuh"

namespace lenet_ext::cuda {

// Index = outer * inner_count + inner, at outer * outer_stride + inner * inner_stride.
struct Levels {
  int64_t inner_count, inner_stride, outer_stride;

  __device__ int64_t offset(int64_t index) const {
    if (index < inner_count) return index * inner_stride;
    const Division d = divide(index, inner_count);
    return d.quotient * outer_stride + d.remainder * inner_stride;
  }
};

// One level: index * stride.
inline Levels level(int64_t count, int64_t stride) {
  return {count, stride, 0};
}

template <class Stored>
struct Matrix {
  const Stored* data;
  int64_t group_stride, row_stride;
  Levels steps;
  bool steps_adjacent;
  int64_t ones_row = -1;  // a row of ones, whose products with the columns are their sums

  struct Row {
    int64_t offset;
    bool ones;
  };
  using Step = int64_t;

  __device__ void to_group(int64_t group) { data += group * group_stride; }
  __device__ Row row(int64_t index) const {
    return {index == ones_row ? kOutside : index * row_stride, index == ones_row};
  }
  __device__ Row outside_row() const { return {kOutside, false}; }
  __device__ Step step(int64_t index) const { return steps.offset(index); }
  __device__ Step outside_step() const { return kOutside; }

  __device__ ComputeType<Stored> load(const Row& row, Step step) const {
    const int64_t offset = row.offset + step;
    if (offset >= 0) return widen(data[offset]);
    return row.ones ? 1 : 0;
  }

 private:
  // Negative even after another offset, or twice.
  static constexpr int64_t kOutside = -(int64_t{1} << 62);
};

// Element (row, column) at rows.offset(row) + column * column_stride, with the column's bias added.
template <class Stored>
struct Output {
  Stored* data;
  Levels rows;
  int64_t column_stride, group_stride;
  const Stored* bias;  // or null
  int64_t group_columns;

  using Row = int64_t;

  __device__ Row row(int64_t index) const { return rows.offset(index); }
  __device__ void store(int64_t group, int64_t, Row place, int64_t, int64_t column,
                        ComputeType<Stored> value) const {
    if (bias != nullptr) value += widen(bias[group * group_columns + column]);
    data[group * group_stride + place + column * column_stride] = narrow<Stored>(value);
  }
};

// A weight's gradient and, in the row after its last, the bias's. With several splits these are partial sums,
// `splits` side by side for each element, for sum_splits.
template <class Stored>
struct WeightOutput {
  Stored* weight;
  Levels rows;
  int64_t column_stride, group_stride;
  Stored* bias;
  int64_t bias_row, group_columns;
  ComputeType<Stored>* partial;  // null if there is one split
  int64_t row_count, splits;

  using Row = int64_t;

  __device__ Row row(int64_t index) const { return index == bias_row ? 0 : rows.offset(index); }
  __device__ void store(int64_t group, int64_t split, Row place, int64_t row, int64_t column,
                        ComputeType<Stored> value) const {
    if (partial != nullptr) {
      partial[((group * row_count + row) * group_columns + column) * splits + split] = value;
    } else {
      finish(group, place, row, column, value);
    }
  }
  __device__ void finish(int64_t group, Row place, int64_t row, int64_t column,
                         ComputeType<Stored> value) const {
    if (row == bias_row) {
      bias[group * group_columns + column] = narrow<Stored>(value);
    } else {
      weight[group * group_stride + place + column * column_stride] = narrow<Stored>(value);
    }
  }
};

}  // namespace lenet_ext::cuda
