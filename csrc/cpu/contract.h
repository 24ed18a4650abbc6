// The microkernel behind conv2d and linear: a tile of `rows` x `vectors` accumulators in registers,
//
//   c[r][v] = init[r][v] + sum over k of  a[k.a + r * a_stride] * b[k.b + v * b_vector_stride]
//
// with vectors c[r][v] and b[...]; `a` is broadcast. Where the factors of step k lie is looked up in a table of offsets, so that
// one kernel serves every convolution (any kernel size, stride, dilation, layout: only the table differs) as well as
// plain matrix products, with output channels as lanes and pixels as rows or the other way round.
//
// Registers: rows * vectors accumulators, `vectors` for b, one for the broadcast of a.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "cpu/unroll.h"

namespace lenet_ext::cpu {

struct Step {
  int32_t a, b;  // offsets in elements
};

template <class T>
struct Contraction {
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_vector_stride;  // width, or the distance of rows of pixels
  const Step* steps;
  int64_t step_count;
  const T* init;         // one value per row, or lanes like c's
  bool init_is_per_row;
  int64_t init_stride;   // from row to row: 0 for a bias per lane
  T* c;
  int64_t c_stride;      // from row to row
  int64_t c_vector_stride;
  int last_lanes;    // of the last vector, only so many are loaded and stored
};

inline constexpr int kMaxVectors = 4;

// More than 16 rows would save few loads.
template <class S>
constexpr int max_rows(int vectors) {
  return std::min((S::registers - 1 - vectors) / vectors, 16);
}

template <class S, int Rows, int Vectors, bool UnitStride, bool Partial>
void contract_tile(const Contraction<typename S::Scalar>& t) {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  const int last_lanes = t.last_lanes;
  const auto load = [last_lanes](const T* p, auto v) {
    if constexpr (Partial && v == Vectors - 1) {
      return S::load_partial(p, last_lanes);
    } else {
      return S::load(p);
    }
  };

  V acc[Rows][Vectors];
  unroll<Rows>([&](auto r) {
    unroll<Vectors>([&](auto v) {
      const T* init = t.init + r * t.init_stride;
      acc[r][v] = t.init_is_per_row ? S::broadcast(*init) : load(init + v * t.c_vector_stride, v);
    });
  });

  const int64_t a_stride = UnitStride ? 1 : t.a_stride;
  const int64_t b_stride = t.b_vector_stride;
  const T *a_base = t.a, *b_base = t.b;
  for (const Step *step = t.steps, *end = step + t.step_count; step != end; ++step) {
    const T* a = a_base + step->a;
    const T* b = b_base + step->b;
    V factor[Vectors];
    unroll<Vectors>([&](auto v) { factor[v] = load(b + v * b_stride, v); });
    unroll<Rows>([&](auto r) {
      const V scale = S::broadcast(a[r * a_stride]);
      unroll<Vectors>([&](auto v) { acc[r][v] = S::fma(scale, factor[v], acc[r][v]); });
    });
  }

  T* c = t.c;
  const int64_t c_stride = t.c_stride, c_vector_stride = t.c_vector_stride;
  unroll<Rows>([&](auto r) {
    T* row = c + r * c_stride;
    unroll<Vectors>([&](auto v) {
      if constexpr (Partial && v == Vectors - 1) {
        S::store_partial(row + v * c_vector_stride, acc[r][v], last_lanes);
      } else {
        S::store(row + v * c_vector_stride, acc[r][v]);
      }
    });
  });
}

// The tile function for (rows, vectors), 1 <= rows <= max_rows<S>(vectors), 1 <= vectors <= kMaxVectors.
template <class S>
class ContractTiles {
  using T = typename S::Scalar;
  using Function = void (*)(const Contraction<T>&);
  static constexpr int kMaxRows = max_rows<S>(1);
  using Table = std::array<std::array<Function, kMaxRows>, kMaxVectors>;

  template <bool UnitStride, bool Partial>
  static constexpr Table make_table() {
    Table table{};
    const auto fill = [&]<int V>(std::integral_constant<int, V>) {
      [&]<int... R>(std::integer_sequence<int, R...>) {
        ((table[V - 1][R] = &contract_tile<S, R + 1, V, UnitStride, Partial>), ...);
      }
      (std::make_integer_sequence<int, max_rows<S>(V)>{});
    };
    [&]<int... V>(std::integer_sequence<int, V...>) {
      (fill(std::integral_constant<int, V + 1>{}), ...);
    }
    (std::make_integer_sequence<int, kMaxVectors>{});
    return table;
  }

  static constexpr Table kTables[2][2] = {{make_table<false, false>(), make_table<false, true>()},
                                          {make_table<true, false>(), make_table<true, true>()}};

 public:
  // One tile, or several of about equal size where there are more than max_rows rows.
  static void run(Contraction<T> t, int64_t rows, int vectors, bool partial) {
    const int64_t most = max_rows<S>(vectors);
    const Function* functions = kTables[t.a_stride == 1][partial][vectors - 1].data();
    for (int64_t tiles = (rows + most - 1) / most; tiles > 0; --tiles) {
      const int64_t tile_rows = (rows + tiles - 1) / tiles;
      functions[tile_rows - 1](t);
      rows -= tile_rows;
      t.a += tile_rows * t.a_stride;
      t.c += tile_rows * t.c_stride;
      t.init += tile_rows * t.init_stride;
    }
  }
};

// About the cycles of one step of a tile: two fused multiply-adds or two loads a cycle, and eight independent
// accumulators needed to hide the latency of the former.
constexpr double step_cost(int64_t rows, int64_t vectors) {
  const int64_t arithmetic = rows * vectors, loads = rows + vectors + 1, latency = 8;
  return 0.5 * static_cast<double>(arithmetic > loads ? (arithmetic > latency ? arithmetic : latency)
                                                      : (loads > latency ? loads : latency));
}

// The cost of a step over `rows` x `vectors` in all, tiled as run() does with `tile_vectors`.
template <class S>
double tiled_cost(int64_t rows, int64_t vectors, int tile_vectors) {
  const int64_t most = max_rows<S>(tile_vectors), tiles = (rows + most - 1) / most;
  const int64_t tile_rows = (rows + tiles - 1) / tiles;
  const double full = step_cost(tile_rows, tile_vectors) * static_cast<double>(vectors / tile_vectors);
  const int64_t rest = vectors % tile_vectors;
  return static_cast<double>(tiles) * (full + (rest > 0 ? step_cost(tile_rows, rest) : 0.0));
}

// The number of vectors per tile with the least cost.
template <class S>
int best_tile_vectors(int64_t rows, int64_t vectors) {
  int best = 1;
  for (int v = 2; v <= kMaxVectors && v <= vectors; ++v) {
    if (max_rows<S>(v) > 0 && tiled_cost<S>(rows, vectors, v) <= tiled_cost<S>(rows, vectors, best)) best = v;
  }
  return best;
}

}  // namespace lenet_ext::cpu
