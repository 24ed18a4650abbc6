// linear with a weight that stays the same from call to call, as that of a frozen network: it is packed once, into
// panels as matmul (matmul.h) makes them anew for each product. What is left of it is one stream through memory.
#pragma once

#include <array>

#include "cpu/linear/linear.h"

namespace lenet_ext::cpu {

// Panels of kVectors vectors of output features, [panel][input feature][output feature]; the last one is as wide as the
// features left, in whole vectors. With AVX-512 a tile has up to 9 rows, 27 accumulators of 32 registers. Results have
// the same bits as those of linear().
template <class S>
class PackedLinear {
  using T = typename S::Scalar;
  static constexpr int kVectors = kStreamVectors;
  static constexpr int64_t kPanel = kVectors * S::width;

 public:
  // Whether it is the way to take for so many rows of input.
  static bool suits(int64_t rows) { return rows >= kFewLinearRows; }

  // Elements.
  static int64_t size(int64_t in_features, int64_t out_features) {
    return vectors(out_features) * S::width * in_features;
  }

  // weight: (out, in)
  static void pack(int64_t in_features, int64_t out_features, const T* weight, T* packed) {
    for (int64_t o = 0; o < out_features; o += kPanel) {
      const int64_t lanes = std::min(kPanel, out_features - o), width = vectors(lanes) * S::width;
      T* const to = packed + o * in_features;
      if (lanes < width) std::fill_n(to, in_features * width, T(0));
      transpose<S>(weight + o * in_features, in_features, to, width, lanes, in_features);
    }
  }

  // bias may be null.
  static void run(const LinearShape& s, const T* input, const T* packed, const T* bias, T* output) {
    Scratch<T> zeros(bias == nullptr ? s.out_features : 0);
    if (bias == nullptr) {
      std::fill_n(zeros.data(), s.out_features, T(0));
      bias = zeros.data();
    }
    const int64_t row_blocks = (s.rows + kRowBlock - 1) / kRowBlock;
    const int64_t block_rows = (s.rows + row_blocks - 1) / row_blocks;
    const int64_t panels = (s.out_features + kPanel - 1) / kPanel;
    const auto cost = static_cast<int64_t>(static_cast<double>(s.in_features) *
                                           tiled_cost<S>(block_rows, kVectors, kVectors));
    parallel_for(panels * row_blocks, cost, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t o = i / row_blocks * kPanel, row = i % row_blocks * block_rows;
        run_panel(s, std::min(kPanel, s.out_features - o), std::min(block_rows, s.rows - row),
                  input + row * s.in_features, packed + o * s.in_features, bias + o,
                  output + row * s.out_features + o);
      }
    });
  }

 private:
  // Of input features at a time, so that a block of a panel, 24 KiB, stays in the first-level cache with as much of the
  // rows that pass over it.
  static constexpr int64_t kDepth = 24 * 1024 / (kPanel * int64_t{sizeof(T)});
  static constexpr int64_t kRowBlock = 96;

  static int64_t vectors(int64_t lanes) { return (lanes + S::width - 1) / S::width; }

  // `lanes` output features of some rows.
  static void run_panel(const LinearShape& s, int64_t lanes, int64_t rows, const T* input, const T* panel,
                        const T* bias, T* output) {
    const int64_t count = vectors(lanes), width = count * S::width;
    const auto last_lanes = static_cast<int>(lanes - width + S::width);
    std::array<Step, kDepth> steps;
    for (int64_t k = 0; k < kDepth; ++k) {
      steps[k] = {static_cast<int32_t>(k), static_cast<int32_t>(k * width)};
    }
    Contraction<T> t{.a = input,
                     .a_stride = s.in_features,
                     .b = panel,
                     .b_vector_stride = S::width,
                     .steps = steps.data(),
                     .step_count = 0,
                     .init = bias,
                     .init_is_per_row = false,
                     .init_stride = 0,
                     .c = output,
                     .c_stride = s.out_features,
                     .c_vector_stride = S::width,
                     .last_lanes = last_lanes,
                     .ahead = kDepth * width};
    const Partial partial = last_lanes < S::width ? Partial::kLast : Partial::kNone;
    for (int64_t k = 0; k < s.in_features || k == 0; k += kDepth) {
      t.step_count = std::min(kDepth, s.in_features - k);
      if (count == kVectors) {
        ContractTiles<S>::run_stream(t, rows, partial);
      } else {
        ContractTiles<S>::run(t, rows, static_cast<int>(count), partial);
      }
      t.a += kDepth, t.b += kDepth * width;
      t.init = t.c, t.init_stride = t.c_stride;
    }
  }
};

}  // namespace lenet_ext::cpu
