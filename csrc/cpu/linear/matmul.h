// Matrix products for linear and its gradients, over the contract microkernel.
#pragma once

#include <vector>

#include "cpu/microkernels/contract.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// c[row * columns + column] = init[column] + sum over k of  a(row, k) * b(k, column), or added to c as it is
// where init is null
template <class T>
struct MatrixProduct {
  int64_t rows, columns, depth;
  const T* a;
  int64_t a_row_stride, a_depth_stride;
  const T* b;
  int64_t b_depth_stride, b_column_stride;  // one of them is 1
  const T* init;                            // `columns` values, or null
  T* c;
};

// A sum of one step, row by row: writing is all the work, and panels of columns would be slow to write.
template <class S>
void outer_product(const MatrixProduct<typename S::Scalar>& p) {
  using T = typename S::Scalar;
  parallel_for(p.rows, p.columns / S::width + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const auto scale = S::broadcast(p.a[row * p.a_row_stride]);
      T* const to = p.c + row * p.columns;
      const T* const init = p.init == nullptr ? to : p.init;
      int64_t i = 0;
      for (; i + S::width <= p.columns; i += S::width) {
        S::store(to + i, S::fma(scale, S::load(p.b + i), S::load(init + i)));
      }
      const int rest = static_cast<int>(p.columns - i);
      const auto sum = S::fma(scale, S::load_partial(p.b + i, rest), S::load_partial(init + i, rest));
      S::store_partial(to + i, sum, rest);
    }
  });
}

// Each task computes a block of rows of a panel of columns, as wide as a register tile. The panel of b is
// packed as [depth][panel width], a block of the depth at a time that stays in the first-level cache while
// all rows pass over it. The sum runs over the depth in order, however the work is cut.
//
// Where b lies row by row, a few panels are packed at once: of each row, in a page of its own, a panel takes no more
// than one or two cache lines.
template <class S>
void matmul(const MatrixProduct<typename S::Scalar>& p) {
  using T = typename S::Scalar;
  constexpr int64_t kPanelBytes = 32 * 1024, kFewRows = 8, kRowBlock = 96, kPanelsAtOnce = 4;
  if (p.rows == 0 || p.columns == 0) return;
  if (p.depth == 1 && p.b_column_stride == 1) return outer_product<S>(p);
  const int64_t all_vectors = (p.columns + S::width - 1) / S::width;
  const int tile_vectors = best_tile_vectors<S>(p.rows, all_vectors);
  const int64_t panel_width = tile_vectors * S::width, panels = (p.columns + panel_width - 1) / panel_width;
  const bool packed = p.b_column_stride != 1 || p.rows > kFewRows;
  const int64_t most_steps = kPanelBytes / int64_t{sizeof(T)} / panel_width;
  const int64_t block = std::min(p.depth, most_steps), panel_size = block * panel_width;

  std::vector<Step> steps;
  steps.reserve(block);
  for (int64_t k = 0; k < block; ++k) {
    const int64_t b_offset = k * (packed ? panel_width : p.b_depth_stride);
    steps.push_back({static_cast<int32_t>(k * p.a_depth_stride), static_cast<int32_t>(b_offset)});
  }
  // `count` rows of b, or of its columns, from one element on.
  const auto pack = [&](const T* b, int64_t lanes, int64_t count, T* to) {
    if (p.b_column_stride != 1) return transpose<S>(b, p.b_column_stride, to, panel_width, lanes, count);
    for (int64_t k = 0; k < count; ++k, b += p.b_depth_stride, to += panel_width) {
      for (int64_t x = 0; x < lanes; x += panel_width) {
        copy_row<S>(b + x, to + x * block, std::min(panel_width, lanes - x));
      }
    }
  };

  const int64_t row_blocks = panels >= 8 ? 1 : (p.rows + kRowBlock - 1) / kRowBlock;
  const int64_t block_rows = (p.rows + row_blocks - 1) / row_blocks;
  const int64_t at_once = packed && p.b_column_stride == 1 && row_blocks == 1 ? kPanelsAtOnce : 1;
  const double cost = static_cast<double>(p.depth) * tiled_cost<S>(block_rows, tile_vectors, tile_vectors);
  parallel_for(panels * row_blocks, static_cast<int64_t>(cost), [&](int64_t begin, int64_t end) {
    Scratch<T> memory(packed ? std::min(at_once, end - begin) * panel_size : 0);
    for (int64_t first = begin; first < end; first += at_once) {
      const int64_t last = std::min(first + at_once, end), left = first / row_blocks * panel_width;
      for (int64_t k = 0; k < p.depth || k == 0; k += block) {
        const int64_t step_count = std::min(block, p.depth - k);
        const T* const b = p.b + k * p.b_depth_stride + left * p.b_column_stride;
        if (packed) {
          pack(b, std::min((last - first) * panel_width, p.columns - left), step_count, memory.data());
        }
        for (int64_t i = first; i < last; ++i) {
          const int64_t column = i / row_blocks * panel_width, row = i % row_blocks * block_rows;
          const int64_t lanes = std::min(panel_width, p.columns - column);
          const int64_t rows = std::min(block_rows, p.rows - row),
                        vectors = (lanes + S::width - 1) / S::width;
          const auto last_lanes = static_cast<int>(lanes - (vectors - 1) * S::width);
          Contraction<T> t{.a = p.a + row * p.a_row_stride + k * p.a_depth_stride,
                           .a_stride = p.a_row_stride,
                           .b = packed ? memory.data() + (i - first) * panel_size : b,
                           .b_vector_stride = S::width,
                           .steps = steps.data(),
                           .step_count = step_count,
                           .init = p.init + column,
                           .init_is_per_row = false,
                           .init_stride = 0,
                           .c = p.c + row * p.columns + column,
                           .c_stride = p.columns,
                           .c_vector_stride = S::width,
                           .last_lanes = last_lanes};
          if (p.init == nullptr || k > 0) t.init = t.c, t.init_stride = t.c_stride;
          ContractTiles<S>::run(t, rows, static_cast<int>(vectors),
                                last_lanes < S::width ? Partial::kLast : Partial::kNone);
        }
        if (block == 0) break;
      }
    }
  });
}

}  // namespace lenet_ext::cpu
