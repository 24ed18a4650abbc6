// The microkernel behind conv2d and linear: a tile of `rows` x `vectors` accumulators in registers,
//
//   c[r][v] = init[r][v] + sum over k of  a[k.a + r * a_stride] * b[k.b + v * b_vector_stride]
//
// with vectors c[r][v] and b[...]; `a` is broadcast. Where the factors of step k lie is looked up in a table
// of offsets, so that one kernel serves every convolution (any kernel size, stride, dilation, layout: only
// the table differs) as well as plain matrix products, with output channels as lanes and pixels as rows or
// the other way round.
//
// With Taps > 1 a step stands for that many in a row, whose factors lie a_stride apart in a and b_tap_stride
// in b: the taps of a kernel row with stride 1. Neighbouring rows of the tile then share their values of a,
// and a value is broadcast once for all of them. This matters with one vector, where broadcasts would
// outnumber what can be loaded.
//
// Registers: rows * vectors accumulators, Taps * vectors for b, one for the broadcast of a. An array of
// vectors stays in registers only if every loop over it is unrolled, which the pragma makes sure of, here and
// in the other microkernels.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace lenet_ext::cpu {

struct Step {
  int32_t a, b;  // offsets in elements
};

// Which vectors have only `last_lanes` lanes to be stored.
enum class Partial {
  kNone,
  kLast,  // the last one; nor may more than that be loaded
  kAll,   // all of them, rows of pixels
};

template <class T>
struct Contraction {
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_vector_stride;  // width, or the distance of rows of pixels
  const Step* steps;
  int64_t step_count;
  const T* init;  // one value per row, or lanes like c's
  bool init_is_per_row;
  int64_t init_stride;  // from row to row: 0 for a bias per lane
  T* c;
  int64_t c_stride;  // from row to row
  int64_t c_vector_stride;
  int last_lanes;
  int64_t b_tap_stride = 0;
  int64_t ahead = 0;  // of b, of run_stream alone
  // Of run_several: how many contractions of the same sizes and steps are done in one call, which takes as long as ten
  // steps, and how far each lies from the one before.
  int64_t count = 1;
  struct {
    int64_t a = 0, b = 0, init = 0, c = 0;
  } next{};
};

// What a tile does beside.
enum class Extra {
  kNone,
  kStream,   // each step asks for what lies t.ahead elements behind its vectors of b
  kBlocks,   // kBlockSteps steps are summed at a time, and these sums in c: their rounding errors are smaller
  kSeveral,  // t.count contractions in turn
};

inline constexpr int64_t kBlockSteps = 16;

inline constexpr int kMaxVectors = 8;
inline constexpr int kStreamVectors = 3;  // of run_stream
inline constexpr int kBlockVectors = 4;   // at most, of run_blocks

// More than 16 rows would save few loads. More than 4 vectors are for one or two rows (depthwise
// convolution), which would else have too few accumulators to hide the latency of the arithmetic.
template <class S>
constexpr int max_rows(int vectors, int taps = 1) {
  return std::min((S::registers - 1 - taps * vectors) / vectors, vectors > 4 ? 2 : 16);
}

template <class S, int Rows, int Vectors, int Taps, bool UnitStride, Partial Partiality,
          Extra extra = Extra::kNone>
void contract_tile(const Contraction<typename S::Scalar>& t) {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  const int last_lanes = t.last_lanes;
  const auto load = [last_lanes](const T* p, int v) {
    return Partiality == Partial::kLast && v == Vectors - 1 ? S::load_partial(p, last_lanes) : S::load(p);
  };

  V acc[Rows][Vectors];
  const T *a_base = t.a, *b_base = t.b, *init_base = t.init;
  T* c = t.c;
  const auto start = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) {
        const T* init = init_base + r * t.init_stride;
        acc[r][v] = t.init_is_per_row ? S::broadcast(*init) : load(init + v * t.c_vector_stride, v);
      }
    }
  };

  const int64_t a_stride = UnitStride ? 1 : t.a_stride;
  const int64_t b_stride = t.b_vector_stride, b_tap_stride = t.b_tap_stride;
  const auto add_steps = [&](const Step* step, const Step* end) __attribute__((always_inline)) {
    for (; step != end; ++step) {
      const T* a = a_base + step->a;
      const T* b = b_base + step->b;
      if constexpr (extra == Extra::kStream) {
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) __builtin_prefetch(b + t.ahead + v * b_stride, 0, 2);
      }
      V factor[Taps][Vectors];
#pragma GCC unroll 16
      for (int tap = 0; tap < Taps; ++tap) {
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) factor[tap][v] = load(b + tap * b_tap_stride + v * b_stride, v);
      }
#pragma GCC unroll 32
      for (int i = 0; i < Rows + Taps - 1; ++i) {
        const V scale = S::broadcast(a[i * a_stride]);
#pragma GCC unroll 16
        for (int tap = 0; tap < Taps; ++tap) {
          const int r = i - tap;
          if (r < 0 || r >= Rows) continue;
#pragma GCC unroll 16
          for (int v = 0; v < Vectors; ++v) acc[r][v] = S::fma(scale, factor[tap][v], acc[r][v]);
        }
      }
    }
  };

  const int64_t c_stride = t.c_stride, c_vector_stride = t.c_vector_stride;
  // To c, or added to what it holds.
  const auto write = [&](bool adds) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      T* row = c + r * c_stride;
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) {
        if (adds) acc[r][v] = S::add(acc[r][v], S::load(row + v * c_vector_stride));
        if (Partiality == Partial::kAll || (Partiality == Partial::kLast && v == Vectors - 1)) {
          S::store_partial(row + v * c_vector_stride, acc[r][v], last_lanes);
        } else {
          S::store(row + v * c_vector_stride, acc[r][v]);
        }
      }
    }
  };

  const Step* const end = t.steps + t.step_count;
  for (int64_t left = t.count;; --left) {
    start();
    if constexpr (extra == Extra::kBlocks) {
      write(false);
      for (const Step* step = t.steps; step < end; step += kBlockSteps) {
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
          for (int v = 0; v < Vectors; ++v) acc[r][v] = S::zero();
        }
        add_steps(step, end - step > kBlockSteps ? step + kBlockSteps : end);
        write(true);
      }
    } else {
      add_steps(t.steps, end);
      write(false);
    }
    if (extra != Extra::kSeveral || left <= 1) break;
    a_base += t.next.a, b_base += t.next.b, init_base += t.next.init, c += t.next.c;
  }
}

// The compiled tiles: 1 <= vectors <= kMaxVectors, 1 <= rows <= max_rows<S>(vectors, taps); several taps with
// one vector only.
template <class S>
class ContractTiles {
  using T = typename S::Scalar;
  using Function = void (*)(const Contraction<T>&);
  using Row = std::array<Function, max_rows<S>(1)>;

  template <int V, int Taps, bool UnitStride, Partial Partiality, Extra extra = Extra::kNone>
  static constexpr Row make_row() {
    // A vector of one lane is never partial.
    constexpr Partial kPartiality = S::width == 1 ? Partial::kNone : Partiality;
    Row row{};
    [&]<int... R>(std::integer_sequence<int, R...>) {
      ((row[R] = &contract_tile<S, R + 1, V, Taps, UnitStride, kPartiality, extra>), ...);
    }(std::make_integer_sequence<int, max_rows<S>(V, Taps)>{});
    return row;
  }
  template <int Taps, bool UnitStride, Partial Partiality, Extra extra = Extra::kNone>
  static constexpr auto make_table() {
    constexpr int kCount = Taps == 1 ? kMaxVectors : 1;
    return []<int... V>(std::integer_sequence<int, V...>) {
      return std::array<Row, kCount>{make_row<V + 1, Taps, UnitStride, Partiality, extra>()...};
    }(std::make_integer_sequence<int, kCount>{});
  }

  // max_rows by the number of vectors: a table, since each call would divide.
  static constexpr auto kMostRows = [] {
    std::array<int64_t, kMaxVectors + 1> rows{};
    for (int v = 1; v <= kMaxVectors; ++v) rows[v] = max_rows<S>(v);
    return rows;
  }();

  static int64_t most_rows(int vectors, int taps) {
    return taps == 3 ? max_rows<S>(1, 3) : taps == 5 ? max_rows<S>(1, 5) : kMostRows[vectors];
  }

  static constexpr std::array kUnitStride = {make_table<1, true, Partial::kNone>(),
                                             make_table<1, true, Partial::kLast>(),
                                             make_table<1, true, Partial::kAll>()};
  static constexpr std::array kStrided = {make_table<1, false, Partial::kNone>(),
                                          make_table<1, false, Partial::kLast>()};
  static constexpr std::array kThreeTaps = {make_table<3, true, Partial::kNone>(),
                                            make_table<3, true, Partial::kLast>()};
  static constexpr std::array kFiveTaps = {make_table<5, true, Partial::kNone>(),
                                           make_table<5, true, Partial::kLast>()};

  static constexpr auto kSeveralUnitStride = make_table<1, true, Partial::kNone, Extra::kSeveral>();
  static constexpr auto kSeveralStrided = make_table<1, false, Partial::kNone, Extra::kSeveral>();
  static constexpr auto kSeveralThreeTaps = make_table<3, true, Partial::kNone, Extra::kSeveral>();
  static constexpr auto kSeveralFiveTaps = make_table<5, true, Partial::kNone, Extra::kSeveral>();

  static constexpr std::array kStream = {
      make_row<kStreamVectors, 1, false, Partial::kNone, Extra::kStream>(),
      make_row<kStreamVectors, 1, false, Partial::kLast, Extra::kStream>()};
  static constexpr auto kBlocks = []<int... V>(std::integer_sequence<int, V...>) {
    return std::array{make_row<V + 1, 1, false, Partial::kNone, Extra::kBlocks>()...};
  }(std::make_integer_sequence<int, kBlockVectors>{});

  static const Row& plain(const Contraction<T>& t, int vectors, Partial partial, int taps) {
    const auto p = static_cast<size_t>(partial);
    if (taps == 3) return kThreeTaps[p][0];
    if (taps == 5) return kFiveTaps[p][0];
    return t.a_stride == 1 ? kUnitStride[p][vectors - 1] : kStrided[p][vectors - 1];
  }
  static const Row& several(const Contraction<T>& t, int vectors, int taps) {
    if (taps == 3) return kSeveralThreeTaps[0];
    if (taps == 5) return kSeveralFiveTaps[0];
    return t.a_stride == 1 ? kSeveralUnitStride[vectors - 1] : kSeveralStrided[vectors - 1];
  }

  // One tile, or several of about equal size where there are more than `most` rows.
  static void run_rows(const Row& functions, int64_t most, const Contraction<T>& whole, int64_t rows) {
    if (rows <= most) return functions[rows - 1](whole);
    Contraction<T> t = whole;
    for (int64_t tiles = (rows + most - 1) / most; tiles > 0; --tiles) {
      const int64_t tile_rows = (rows + tiles - 1) / tiles;
      functions[tile_rows - 1](t);
      rows -= tile_rows;
      t.a += tile_rows * t.a_stride;
      t.c += tile_rows * t.c_stride;
      t.init += tile_rows * t.init_stride;
    }
  }

 public:
  // Whether run() takes steps of so many taps.
  static constexpr bool has(int taps, int vectors) {
    return taps == 1 || (vectors == 1 && (taps == 3 || taps == 5));
  }

  // All rows, of which max_rows make a tile at most.
  static void run(const Contraction<T>& whole, int64_t rows, int vectors, Partial partial, int taps = 1) {
    run_rows(plain(whole, vectors, partial, taps), most_rows(vectors, taps), whole, rows);
  }

  // The same of whole vectors, whole.count times.
  static void run_several(const Contraction<T>& whole, int64_t rows, int vectors, int taps) {
    run_rows(several(whole, vectors, taps), most_rows(vectors, taps), whole, rows);
  }

  // run() of whole vectors, at most kBlockVectors of them, with smaller rounding errors.
  static void run_blocks(const Contraction<T>& whole, int64_t rows, int vectors) {
    run_rows(kBlocks[vectors - 1], kMostRows[vectors], whole, rows);
  }

  // run() of kStreamVectors vectors where b comes from memory, a part at a time: while the first tile is computed,
  // step by step, the next part is asked for.
  static void run_stream(Contraction<T> t, int64_t rows, Partial partial) {
    const int64_t most = kMostRows[kStreamVectors], tiles = (rows + most - 1) / most;
    const int64_t tile_rows = (rows + tiles - 1) / tiles;
    kStream[static_cast<size_t>(partial)][tile_rows - 1](t);
    if (tile_rows == rows) return;
    t.a += tile_rows * t.a_stride, t.c += tile_rows * t.c_stride, t.init += tile_rows * t.init_stride;
    run(t, rows - tile_rows, kStreamVectors, partial);
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
    if (max_rows<S>(v) < std::min<int64_t>(rows, 3)) break;  // wide tiles are for one or two rows
    const double cost = tiled_cost<S>(rows, vectors, v), least = tiled_cost<S>(rows, vectors, best);
    if (cost < least || (cost == least && v <= 4)) best = v;  // 4 vectors of 6 rows need the fewest loads
  }
  return best;
}

}  // namespace lenet_ext::cpu
