// Microkernels over lists of image patches: list entry k is a factor and the offset of a patch in an image
// stored channels-last. Of a patch they take a block of `Rows` rows, `pitch` apart, of `Vectors` vectors
// each.
//
//   gather_patches   sums[r][v] += sum over k of  factor[k] * patch[k][r][v]      accumulators in registers
//   scatter_patches  patch[k][r][v] += factor[k] * weights[r][v]  for every k     weights in registers
//
// The second may walk two lists in turn, with weights and an image for each: patches of one list overlap, and a load
// from what was stored a moment ago has to wait for it.
//
// Registers: Lists * Rows * Vectors, one for the factor, one for what is loaded.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace lenet_ext::cpu {

template <class T>
struct PatchList {
  int64_t count;
  const T* factors;
  const int32_t* offsets;
};

// A block of `Rows` x `Vectors` vectors beside a list of patches.
template <class T>
struct PatchBlock {
  T* patches;        // the image, read or added to
  int64_t pitch;     // from row to row of a patch
  T* values;         // sums or weights
  int64_t row_size;  // from row to row of values
};

template <class S, int Rows, int Vectors>
void gather_patches(const PatchList<typename S::Scalar>& list, const PatchBlock<typename S::Scalar>& block) {
  using T = typename S::Scalar;
  typename S::Vector sums[Rows][Vectors];
  const int64_t pitch = block.pitch;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sums[r][v] = S::load(block.values + r * block.row_size + v * S::width);
  }
  for (int64_t k = 0; k < list.count; ++k) {
    const T* patch = block.patches + list.offsets[k];
    const auto factor = S::broadcast(list.factors[k]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] = S::fma(factor, S::load(patch + r * pitch + v * S::width), sums[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) S::store(block.values + r * block.row_size + v * S::width, sums[r][v]);
  }
}

template <class S, int Rows, int Vectors, int Lists>
void scatter_patches(const std::array<PatchList<typename S::Scalar>, Lists>& lists,
                     const std::array<PatchBlock<typename S::Scalar>, Lists>& blocks) {
  using T = typename S::Scalar;
  typename S::Vector weights[Lists][Rows][Vectors];
#pragma GCC unroll 2
  for (int l = 0; l < Lists; ++l) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v)
        weights[l][r][v] = S::load(blocks[l].values + r * blocks[l].row_size + v * S::width);
    }
  }
  const int64_t pitch = blocks[0].pitch;
  const auto add = [&](int l, int64_t k) __attribute__((always_inline)) {
    T* patch = blocks[l].patches + lists[l].offsets[k];
    const auto factor = S::broadcast(lists[l].factors[k]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) {
        T* p = patch + r * pitch + v * S::width;
        S::store(p, S::fma(factor, weights[l][r][v], S::load(p)));
      }
    }
  };
  // Neighbours in a list mostly overlap: so one from its first half, one from the second.
  const auto add_two = [&](int l, int64_t k) __attribute__((always_inline)) {
    add(l, k);
    add(l, lists[l].count / 2 + k);
  };
  int64_t both = lists[0].count / 2;
  for (int l = 1; l < Lists; ++l) both = std::min(both, lists[l].count / 2);
  for (int64_t k = 0; k < both; ++k) {
#pragma GCC unroll 2
    for (int l = 0; l < Lists; ++l) add_two(l, k);
  }
#pragma GCC unroll 2
  for (int l = 0; l < Lists; ++l) {
    for (int64_t k = both; k < lists[l].count / 2; ++k) add_two(l, k);
    if (lists[l].count % 2 != 0) add(l, lists[l].count - 1);
  }
}

// The compiled blocks: lists * rows * vectors <= kMost, vectors <= kMostVectors, rows <= kMostRows.
template <class S>
class PatchKernels {
  using T = typename S::Scalar;
  template <int Lists>
  using Blocks = std::array<PatchBlock<T>, Lists>;
  template <int Lists>
  using Scatter = void (*)(const std::array<PatchList<T>, Lists>&, const Blocks<Lists>&);
  using Gather = void (*)(const PatchList<T>&, const PatchBlock<T>&);

 public:
  static constexpr int kMost = S::registers >= 32 ? 24 : 12, kMostVectors = 4, kMostRows = 8;

  // Any number of rows and vectors, in blocks.
  static void gather(const PatchList<T>& list, const PatchBlock<T>& block, int64_t rows, int64_t vectors) {
    for_each_block<1>({block}, rows, vectors, [&](const Blocks<1>& part, int64_t height, int64_t columns) {
      kGather[columns - 1][height - 1](list, part[0]);
    });
  }
  template <int Lists>
  static void scatter(const std::array<PatchList<T>, Lists>& lists, const Blocks<Lists>& blocks, int64_t rows,
                      int64_t vectors) {
    for_each_block<Lists>(blocks, rows, vectors,
                          [&](const Blocks<Lists>& part, int64_t height, int64_t columns) {
                            kScatter<Lists>[columns - 1][height - 1](lists, part);
                          });
  }
  // Whether two lists, with so many rows and vectors each, are a single block.
  static constexpr bool takes_two(int64_t rows, int64_t vectors) {
    return rows <= kMostRows && vectors <= kMostVectors && 2 * rows * vectors <= kMost;
  }

 private:
  template <int Lists, class Body>
  static void for_each_block(const Blocks<Lists>& whole, int64_t rows, int64_t vectors, const Body& body) {
    for (int64_t v = 0; v < vectors; v += kMostVectors) {
      const int64_t columns = std::min<int64_t>(kMostVectors, vectors - v);
      const int64_t most = std::min<int64_t>(kMostRows, kMost / Lists / columns);
      for (int64_t r = 0; r < rows; r += most) {
        Blocks<Lists> part = whole;
        for (PatchBlock<T>& block : part) {
          block.patches += r * block.pitch + v * S::width;
          block.values += r * block.row_size + v * S::width;
        }
        body(part, std::min(most, rows - r), columns);
      }
    }
  }

  // [vectors - 1][rows - 1] of what function(rows, vectors) gives.
  template <class Function, int Lists, class Make>
  static constexpr auto make_table(const Make& make) {
    std::array<std::array<Function, kMostRows>, kMostVectors> table{};
    const auto fill = [&]<int V>(std::integral_constant<int, V> vectors) {
      [&]<int... R>(std::integer_sequence<int, R...>) {
        ((table[V - 1][R] = make(std::integral_constant<int, R + 1>{}, vectors)), ...);
      }(std::make_integer_sequence<int, std::min(kMostRows, kMost / Lists / V)>{});
    };
    [&]<int... V>(std::integer_sequence<int, V...>) {
      (fill(std::integral_constant<int, V + 1>{}), ...);
    }(std::make_integer_sequence<int, kMostVectors>{});
    return table;
  }
  static constexpr auto kGather = make_table<Gather, 1>([](auto rows, auto vectors) {
    return &gather_patches<S, decltype(rows)::value, decltype(vectors)::value>;
  });
  template <int Lists>
  static constexpr auto kScatter = make_table<Scatter<Lists>, Lists>([](auto rows, auto vectors) {
    return &scatter_patches<S, decltype(rows)::value, decltype(vectors)::value, Lists>;
  });
};

}  // namespace lenet_ext::cpu
