// The gradients of the fused engine's linear weights, those of all stages in one launch: contractions
// (contract.cuh) over the images of the batch.
#pragma once

#include <algorithm>

#include "cuda/contract/contract.cuh"
#include "cuda/contract/matrix.cuh"
#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

// A linear stage's input and gradient, [image][features].
template <class Compute>
struct LinearGrad {
  const Compute *input, *grad;
  Compute* partial;
  int64_t in_features, out_features, count;  // count: of weight and bias
  bool bias;
  int64_t splits, split_images, blocks;
};

template <class Compute>
struct LinearGrads {
  LinearGrad<Compute> stages[kMostStages];
  int32_t stage_count;
  int64_t batch;
};

// Rows: input features, and one more for the bias; columns: output features; steps: images.
using GradTile = Tile<64, 32>;

// [split][weight and bias], as torch lays them out.
template <class Compute>
struct PartialGrad {
  Compute* partial;
  int64_t in_features, out_features, count;

  __device__ void store(const ThreadTile& tile, const ThreadSums<Compute>& sums) const {
    Compute* const slice = partial + tile.split * count;
#pragma unroll
    for (int j = 0; j < kThreadTile; ++j) {
#pragma unroll
      for (int i = 0; i < kThreadTile; ++i) {
        if (i >= tile.rows_left || j >= tile.columns_left) continue;
        const int64_t in = tile.row + i, out = tile.column + j;
        slice[in == in_features ? in_features * out_features + out : out * in_features + in] = sums[i][j];
      }
    }
  }
};

template <class Compute>
__global__ __launch_bounds__(GradTile::kThreads, GradTile::kBlocks) void contract_stages(
    const __grid_constant__ LinearGrads<Compute> grads) {
  int64_t block = blockIdx.x;
  int32_t stage = 0;
  for (; block >= grads.stages[stage].blocks; ++stage) block -= grads.stages[stage].blocks;
  const LinearGrad<Compute>& g = grads.stages[stage];
  const ContractSizes sizes{1, g.in_features + g.bias, g.out_features, grads.batch, g.splits, g.split_images};
  const Matrix<Compute> inputs{g.input, 0, 1, {grads.batch, g.in_features, 0}, false, g.in_features};
  const Matrix<Compute> rows{g.grad, 0, 1, {grads.batch, g.out_features, 0}, false};
  contract_tile<GradTile, Compute>(block, sizes, inputs, rows,
                                   PartialGrad<Compute>{g.partial, g.in_features, g.out_features, g.count});
}

template <class Compute>
void choose_splits(LinearGrad<Compute>& g, int64_t batch) {
  constexpr int64_t kWantedBlocks = 512;  // several for each of an H200's 132 SMs
  constexpr int64_t kLeastImages = 64;    // below this, to add up the splits costs more than it gains
  const int64_t tiles =
      divide_up(g.in_features + g.bias, GradTile::kRows) * divide_up(g.out_features, GradTile::kColumns);
  const int64_t splits =
      std::max<int64_t>(1, std::min(divide_up(batch, kLeastImages), divide_up(kWantedBlocks, tiles)));
  g.split_images = divide_up(divide_up(batch, splits), GradTile::kSteps) * GradTile::kSteps;
  g.splits = divide_up(batch, g.split_images);
  g.blocks = tiles * g.splits;
}

template <class Compute>
void linear_grads(const char* op, const LinearGrads<Compute>& grads) {
  int64_t blocks = 0;
  for (int32_t i = 0; i < grads.stage_count; ++i) blocks += grads.stages[i].blocks;
  launch(op, blocks, GradTile::kThreads, &contract_stages<Compute>, grads);
}

}  // namespace lenet_ext::cuda
