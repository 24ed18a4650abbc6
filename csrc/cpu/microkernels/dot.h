// The microkernel whose lanes are the reduction: a tile of `rows` x `columns` dot products,
//
//   acc[r][j][lane] += sum over the runs and their vectors of  a[r * a_stride + i] * b[b_offset[j] + i].
//
// Neither factor has to be packed, so it serves linear's forward (both matrices have the reduction as the
// contiguous dimension) and the weight gradient of convolutions with few channels (the runs are rows of
// pixels).
//
// Registers: rows * columns accumulators, `rows` for a, one for b.
#pragma once

#include <algorithm>
#include <array>

#include "cpu/microkernels/contract.h"

namespace lenet_ext::cpu {

template <class T>
struct DotProducts {
  const T* a;
  int64_t a_stride;  // from row to row
  const T* b;
  const int64_t* b_offset;  // of each column
  int64_t run_length;       // elements of a run
  int64_t run_count;
  int64_t a_run_stride, b_run_stride;
  T* sums;              // [rows][columns] vectors of S::width partial sums, added to
  int64_t sums_stride;  // elements from row to row
};

template <class S>
constexpr int max_columns(int rows) {
  return std::min((S::registers - 1 - rows) / rows, 12);
}

template <class S, int Rows, int Columns>
void dot_tile(const DotProducts<typename S::Scalar>& t) {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  constexpr int width = S::width;
  V acc[Rows][Columns];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) acc[r][j] = S::load(t.sums + r * t.sums_stride + j * width);
  }
  const T* columns[Columns];
#pragma GCC unroll 16
  for (int j = 0; j < Columns; ++j) columns[j] = t.b + t.b_offset[j];

  const int64_t full = t.run_length / width * width;
  const int rest = static_cast<int>(t.run_length - full);
  const T* a = t.a;
  for (int64_t run = 0; run < t.run_count; ++run) {
    const int64_t shift = run * t.b_run_stride;
    for (int64_t i = 0; i < full; i += width) {
      V factor[Rows];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) factor[r] = S::load(a + r * t.a_stride + i);
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) {
        const V b = S::load(columns[j] + shift + i);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) acc[r][j] = S::fma(factor[r], b, acc[r][j]);
      }
    }
    if (rest > 0) {
      V factor[Rows];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) factor[r] = S::load_partial(a + r * t.a_stride + full, rest);
#pragma GCC unroll 16
      for (int j = 0; j < Columns; ++j) {
        const V b = S::load_partial(columns[j] + shift + full, rest);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) acc[r][j] = S::fma(factor[r], b, acc[r][j]);
      }
    }
    a += t.a_run_stride;
  }

#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < Columns; ++j) S::store(t.sums + r * t.sums_stride + j * width, acc[r][j]);
  }
}

// Tiles of up to max_rows() rows x max_columns<S>(rows).
template <class S>
class DotTiles {
  using T = typename S::Scalar;
  using Function = void (*)(const DotProducts<T>&);
  static constexpr int kMaxRows = 6;
  static constexpr int kMaxColumns = max_columns<S>(1);

  static constexpr auto make_table() {
    std::array<std::array<Function, kMaxColumns>, kMaxRows> table{};
    const auto fill = [&]<int R>(std::integral_constant<int, R>) {
      [&]<int... J>(std::integer_sequence<int, J...>) {
        ((table[R - 1][J] = &dot_tile<S, R, J + 1>), ...);
      }(std::make_integer_sequence<int, max_columns<S>(R)>{});
    };
    [&]<int... R>(std::integer_sequence<int, R...>) {
      (fill(std::integral_constant<int, R + 1>{}), ...);
    }(std::make_integer_sequence<int, kMaxRows>{});
    return table;
  }
  static constexpr auto kTable = make_table();

 public:
  // rows <= max_rows(), columns <= max_columns<S>(rows).
  static void run(const DotProducts<T>& t, int rows, int columns) { kTable[rows - 1][columns - 1](t); }

  static constexpr int max_rows() {
    int rows = kMaxRows;
    while (max_columns<S>(rows) < 1) --rows;
    return rows;
  }
};

// The cost of a vector of every dot product of `rows` x `columns`, in tiles of `tile_rows`.
template <class S>
double tiled_dot_cost(int64_t rows, int64_t columns, int tile_rows) {
  const int64_t most = max_columns<S>(tile_rows);
  const int64_t tiles = (rows + tile_rows - 1) / tile_rows * ((columns + most - 1) / most);
  return static_cast<double>(tiles) * step_cost(tile_rows, std::min(columns, most));
}

// The number of rows per tile with the least cost.
template <class S>
int best_dot_rows(int64_t rows, int64_t columns) {
  int best = 1;
  for (int r = 2; r <= DotTiles<S>::max_rows() && r <= rows; ++r) {
    if (tiled_dot_cost<S>(rows, columns, r) < tiled_dot_cost<S>(rows, columns, best)) best = r;
  }
  return best;
}

}  // namespace lenet_ext::cpu
