// Loaders and sinks of contract.cuh for matrices whose rows and steps lie at regular distances.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/number.cuh"
#include "cuda/contract/thread_tile.cuh"

namespace lenet_ext::cuda {

// Index = outer * inner_count + inner, at outer * outer_stride + inner * inner_stride.
struct Levels {
  int64_t inner_count, inner_stride, outer_stride;

  __device__ int64_t offset(int64_t index) const {
    if (index < inner_count) return index * inner_stride;
    const Division d = divide(index, inner_count);
    return d.quotient * outer_stride + d.remainder * inner_stride;
  }

  // Whether `count` of them from `index` on share the outer index: they are inner_stride apart.
  __device__ bool together(int64_t index, int64_t count) const {
    return (index < inner_count ? index : divide(index, inner_count).remainder) + count <= inner_count;
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
  using Compute = ComputeType<Stored>;

  Stored* data;
  Levels rows;
  int64_t column_stride, group_stride;
  const Stored* bias;  // or null
  int64_t group_columns;

  // Along the columns if these lie side by side, else along the rows, which then do, within an image.
  __device__ void store(const ThreadTile& tile, ThreadSums<Compute>& sums) const {
    if (tile.rows_left <= 0 || tile.columns_left <= 0) return;
    if (bias != nullptr) add_bias(bias + tile.group * group_columns + tile.column, tile, sums);
    Stored* const corner = data + tile.group * group_stride + tile.column * column_stride;
    if (column_stride != 1 && tile.rows_left >= kThreadTile && rows.together(tile.row, kThreadTile)) {
      const int64_t place = rows.offset(tile.row);
#pragma unroll
      for (int j = 0; j < kThreadTile; ++j) {
        const Compute values[kThreadTile] = {sums[0][j], sums[1][j], sums[2][j], sums[3][j]};
        if (j < tile.columns_left)
          store_line(corner + place + j * column_stride, rows.inner_stride, kThreadTile, values);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kThreadTile; ++i) {
      if (i < tile.rows_left)
        store_line(corner + rows.offset(tile.row + i), column_stride, tile.columns_left, sums[i]);
    }
  }

 private:
  __device__ static void add_bias(const Stored* bias, const ThreadTile& tile, ThreadSums<Compute>& sums) {
#pragma unroll
    for (int j = 0; j < kThreadTile; ++j) {
      if (j >= tile.columns_left) break;
      const Compute value = widen(bias[j]);
#pragma unroll
      for (int i = 0; i < kThreadTile; ++i) sums[i][j] += value;
    }
  }
};

// A weight's gradient and, in the row after its last, the bias's. With several splits these are partial sums,
// `splits` side by side for each element, for sum_splits.
template <class Stored>
struct WeightOutput {
  using Compute = ComputeType<Stored>;

  Stored* weight;
  Levels rows;
  int64_t column_stride, group_stride;
  Stored* bias;
  int64_t bias_row, group_columns;
  Compute* partial;  // null if there is one split
  int64_t row_count, splits;

  __device__ void store(const ThreadTile& tile, const ThreadSums<Compute>& sums) const {
#pragma unroll
    for (int i = 0; i < kThreadTile; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadTile; ++j) {
        if (i >= tile.rows_left || j >= tile.columns_left) continue;
        const int64_t row = tile.row + i, column = tile.column + j;
        if (partial == nullptr) {
          finish(tile.group, row, column, sums[i][j]);
        } else {
          const int64_t element = (tile.group * row_count + row) * group_columns + column;
          partial[element * splits + tile.split] = sums[i][j];
        }
      }
    }
  }

  __device__ void finish(int64_t group, int64_t row, int64_t column, Compute value) const {
    if (row == bias_row) {
      bias[group * group_columns + column] = narrow<Stored>(value);
    } else {
      weight[group * group_stride + rows.offset(row) + column * column_stride] = narrow<Stored>(value);
    }
  }
};

}  // namespace lenet_ext::cuda
