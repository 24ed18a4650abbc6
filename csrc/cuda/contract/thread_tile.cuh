// The elements of a contraction (contract.cuh) that one thread computes.
#pragma once

#include "cuda/common/number.cuh"

namespace lenet_ext::cuda {

// Rows and columns: 16 sums from 8 values, two loads of 16 bytes in float32.
inline constexpr int kThreadTile = 4;

// Where these lie in C, and how many rows and columns of C there are from there on: maybe none.
struct ThreadTile {
  int64_t group, split;
  int64_t row, column;
  int64_t rows_left, columns_left;
};

template <class Compute>
using ThreadSums = Compute[kThreadTile][kThreadTile];

// The first `count` values at distances of `stride`; by one store where they lie side by side and aligned.
template <class Stored>
__device__ void store_line(Stored* target, int64_t stride, int64_t count,
                           const ComputeType<Stored> (&values)[kThreadTile]) {
  using Line = Vector<Stored, kThreadTile>;
  if (stride == 1 && count >= kThreadTile && reinterpret_cast<uintptr_t>(target) % sizeof(Line) == 0) {
    Line line;
#pragma unroll
    for (int i = 0; i < kThreadTile; ++i) line.values[i] = narrow<Stored>(values[i]);
    *reinterpret_cast<Line*>(target) = line;
    return;
  }
#pragma unroll
  for (int i = 0; i < kThreadTile; ++i) {
    if (i < count) target[i * stride] = narrow<Stored>(values[i]);
  }
}

}  // namespace lenet_ext::cuda
