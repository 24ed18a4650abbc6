// Chooses tiles and splits for a contraction (contract.cuh) by its sizes alone, and launches it.
#pragma once

#include <optional>

#include "cuda/contract/contract.cuh"
#include "cuda/contract/matrix.cuh"

namespace lenet_ext::cuda {

template <class Tile>
int64_t block_count(const ContractSizes& sizes) {
  return sizes.groups * sizes.splits * divide_up(sizes.rows, Tile::kRows) *
         divide_up(sizes.columns, Tile::kColumns);
}

// Columns of float32 fill one of three tiles best; the other types take the middle one.
using NarrowTile = Tile<128, 8>;
using MiddleTile = Tile<128, 16>;
using WideTile = Tile<64, 64>;

template <class Stored, class Body>
void with_tile(int64_t columns, const Body& body) {
  constexpr bool kAll = std::is_same_v<Stored, float>;
  if (kAll && columns <= NarrowTile::kColumns) {
    body(std::conditional_t<kAll, NarrowTile, MiddleTile>{});
  } else if (kAll && columns > WideTile::kColumns / 2) {
    body(std::conditional_t<kAll, WideTile, MiddleTile>{});
  } else {
    body(MiddleTile{});
  }
}

// All steps in one go.
template <class Stored, class A, class B>
void launch_contract(const char* op, ContractSizes sizes, const A& a, const B& b,
                     const Output<Stored>& output) {
  sizes.split_steps = sizes.steps;
  with_tile<Stored>(sizes.columns, [&](auto tile) {
    using Tile = decltype(tile);
    launch(op, block_count<Tile>(sizes), Tile::kThreads,
           &contract<Tile, ComputeType<Stored>, A, B, Output<Stored>>, sizes, a, b, output);
  });
}

// One warp per element adds up its splits: each lane every 32nd in order, then the lanes, pairwise.
template <class Stored>
__global__ __launch_bounds__(kElementThreads) void sum_splits(int64_t elements, int64_t rows,
                                                              WeightOutput<Stored> output) {
  const int64_t element = element_index() / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (element >= elements) return;
  ComputeType<Stored> sum = 0;
  for (int64_t split = lane; split < output.splits; split += kWarpSize) {
    sum += output.partial[element * output.splits + split];
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(kWholeWarp, sum, distance);
  }
  if (lane != 0) return;
  const Division column = divide(element, output.group_columns), row = divide(column.quotient, rows);
  output.finish(row.quotient, row.remainder, column.remainder, sum);
}

// For few rows and columns and many steps: the gradient of a weight, summed over the batch.
template <class Stored, class A, class B>
void launch_contract_splits(const char* op, ContractSizes sizes, const A& a, const B& b,
                            WeightOutput<Stored> output) {
  constexpr int64_t kWantedBlocks = 1024;  // several for each of an H200's 132 SMs
  constexpr int64_t kLeastSteps = 256;     // below this, to add up the splits costs more than it gains
  with_tile<Stored>(sizes.columns, [&](auto tile) {
    using Tile = decltype(tile);
    const int64_t blocks = block_count<Tile>(sizes), elements = sizes.groups * sizes.rows * sizes.columns;
    if (blocks == 0) return;
    const int64_t most = divide_up(sizes.steps, kLeastSteps), wanted = divide_up(kWantedBlocks, blocks);
    const int64_t splits = most < 1 ? 1 : most < wanted ? most : wanted;
    sizes.split_steps = divide_up(divide_up(sizes.steps, splits), Tile::kSteps) * Tile::kSteps;
    sizes.splits = sizes.steps == 0 ? 1 : divide_up(sizes.steps, sizes.split_steps);
    std::optional<Scratch> scratch;
    if (sizes.splits > 1) {
      scratch.emplace(elements * sizes.splits * static_cast<int64_t>(sizeof(ComputeType<Stored>)));
      output.partial = scratch->data<ComputeType<Stored>>();
    }
    output.row_count = sizes.rows, output.splits = sizes.splits;
    launch(op, block_count<Tile>(sizes), Tile::kThreads,
           &contract<Tile, ComputeType<Stored>, A, B, WeightOutput<Stored>>, sizes, a, b, output);
    if (sizes.splits > 1) {
      launch_elements(op, elements * kWarpSize, &sum_splits<Stored>, elements, sizes.rows, output);
    }
  });
}

}  // namespace lenet_ext::cuda
