// Microkernels over lists of image patches: list entry k is a factor and the offset of a patch in an image
// stored channels-last. Of a patch they take a block of `Rows` rows, `pitch` apart, of `Vectors` vectors
// each.
//
//   gather_patches   sums[r][v] += sum over k of  factor[k] * patch[k][r][v]      accumulators in registers
//   scatter_patches  patch[k][r][v] += factor[k] * weights[r][v]  for every k     weights in registers
//
// Registers: Rows * Vectors, one for the factor, one for what is loaded.
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

template <class S, int Rows, int Vectors>
void scatter_patches(const PatchList<typename S::Scalar>& list, const PatchBlock<typename S::Scalar>& block) {
  using T = typename S::Scalar;
  typename S::Vector weights[Rows][Vectors];
  const int64_t pitch = block.pitch;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v)
      weights[r][v] = S::load(block.values + r * block.row_size + v * S::width);
  }
  const auto add = [&](int64_t k) {
    T* patch = block.patches + list.offsets[k];
    const auto factor = S::broadcast(list.factors[k]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) {
        T* p = patch + r * pitch + v * S::width;
        S::store(p, S::fma(factor, weights[r][v], S::load(p)));
      }
    }
  };
  // Neighbours in the list mostly overlap, and a load from what was stored a moment ago has to wait for it:
  // so one from the first half of the list, one from the second.
  const int64_t half = list.count / 2;
  for (int64_t k = 0; k < half; ++k) {
    add(k);
    add(half + k);
  }
  if (list.count % 2 != 0) add(list.count - 1);
}

// The compiled blocks: rows * vectors <= kMost, vectors <= kMostVectors, rows <= kMostRows.
template <class S>
class PatchKernels {
  using T = typename S::Scalar;
  using Function = void (*)(const PatchList<T>&, const PatchBlock<T>&);

 public:
  static constexpr int kMost = S::registers >= 32 ? 24 : 12, kMostVectors = 4, kMostRows = 8;

  // Any number of rows and vectors, in blocks.
  template <bool kScatter>
  static void run(const PatchList<T>& list, PatchBlock<T> block, int64_t rows, int64_t vectors) {
    const PatchBlock<T> whole = block;
    for (int64_t v = 0; v < vectors; v += kMostVectors) {
      const int64_t columns = std::min<int64_t>(kMostVectors, vectors - v);
      const int64_t most = std::min<int64_t>(kMostRows, kMost / columns);
      for (int64_t r = 0; r < rows; r += most) {
        const int64_t height = std::min(most, rows - r);
        block.patches = whole.patches + r * whole.pitch + v * S::width;
        block.values = whole.values + r * whole.row_size + v * S::width;
        kTable<kScatter>[columns - 1][height - 1](list, block);
      }
    }
  }

 private:
  template <bool kScatter, int Vectors>
  static constexpr auto make_row() {
    std::array<Function, kMostRows> row{};
    [&]<int... R>(std::integer_sequence<int, R...>) {
      ((row[R] = kScatter ? &scatter_patches<S, R + 1, Vectors> : &gather_patches<S, R + 1, Vectors>), ...);
    }(std::make_integer_sequence<int, std::min(kMostRows, kMost / Vectors)>{});
    return row;
  }
  template <bool kScatter>
  static constexpr std::array kTable = {make_row<kScatter, 1>(), make_row<kScatter, 2>(),
                                        make_row<kScatter, 3>(), make_row<kScatter, 4>()};
};

}  // namespace lenet_ext::cpu
