// The arithmetic behind conv2d and linear, forward and backward:
//
//     C[row][column] = sum over steps of A[row][step] * B[column][step]
//
// A and B are read through loaders (matrix.cuh, patches.cuh), C is handed to a sink; what the three indices
// stand for is up to them. A block computes a tile of C: it walks along the steps in slabs, which it copies
// to shared memory, and each thread adds up 4 x 4 elements in registers. While one slab is computed, the
// loads of the next are under way. Steps are added in order, so results do not depend on the machine.
//
// A loader has, with Row and Step of 16 bytes:
//   Row row(int64_t), Step step(int64_t)    where an index lies: divisions, done once per tile or slab
//   Row outside_row(), Step outside_step()  which load as 0
//   Compute load(Row, Step)
//   bool steps_adjacent                     whether neighbours in memory are steps, or else rows
//   void to_group(int64_t)
// A sink has `void store(ThreadTile, sums)`.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/contract/thread_tile.cuh"

namespace lenet_ext::cuda {

struct ContractSizes {
  int64_t groups;  // contractions of these sizes, one after the other
  int64_t rows, columns, steps;
  int64_t splits = 1;       // the steps are cut into as many parts, each summed by itself,
  int64_t split_steps = 0;  // of this many steps, but for the last
};

// Shared memory: 2 slabs of (rows + columns + 8) x 8 values, and 16 bytes per row and column: 11 to 12 KiB in
// float32, 22 KiB in float64.
template <int kTileRows, int kTileColumns>
struct Tile {
  static constexpr int kRows = kTileRows, kColumns = kTileColumns;
  static constexpr int kSteps = 8;  // of a slab: 32 bytes of float32, the unit in which memory is read
  static constexpr int kThreads = kRows * kColumns / (kThreadTile * kThreadTile);
  // An SM is to hold 12 warps at least, which leaves each thread 168 of its 65,536 registers.
  static constexpr int kBlocks = 12 * kWarpSize / kThreads;
};

// One factor of a tile: kCount rows of A (or of B, which are columns of C).
template <class Tile, int kCount, class Compute, class Loader>
class Operand {
 public:
  struct Shared {
    // The pad keeps lanes that store along the steps in different banks.
    alignas(kThreadTile * sizeof(Compute)) Compute slabs[2][Tile::kSteps][kCount + kThreadTile];
    typename Loader::Row rows[kCount];
    typename Loader::Step steps[2][Tile::kSteps];
  };

  __device__ Operand(const Loader& loader, Shared& shared) : loader_(loader), shared_(shared) {}

  __device__ void prepare_rows(int64_t first, int64_t count) {
    for (int i = threadIdx.x; i < kCount; i += Tile::kThreads) {
      shared_.rows[i] = first + i < count ? loader_.row(first + i) : loader_.outside_row();
    }
  }

  // By the threads from `first_thread` on.
  __device__ void prepare_steps(int slab, int first_thread, int64_t first, int64_t end) {
    const int i = static_cast<int>(threadIdx.x) - first_thread;
    if (i < 0 || i >= Tile::kSteps) return;
    shared_.steps[slab][i] = first + i < end ? loader_.step(first + i) : loader_.outside_step();
  }

  __device__ void take_rows() {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i)
      own_rows_[i] = shared_.rows[(threadIdx.x + i * Tile::kThreads) % kCount];
  }

  // Memory to registers. Lanes run along what is adjacent in memory.
  __device__ void load(int slab) {
    if (loader_.steps_adjacent) {
      const typename Loader::Step step = shared_.steps[slab][threadIdx.x % Tile::kSteps];
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const int row = (threadIdx.x + i * Tile::kThreads) / Tile::kSteps;
        if (kFits || row < kCount) held_[i] = loader_.load(shared_.rows[row], step);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const int step = (threadIdx.x + i * Tile::kThreads) / kCount;
        if (kFits || step < Tile::kSteps)
          held_[i] = loader_.load(own_rows_[i % kOwnRows], shared_.steps[slab][step]);
      }
    }
  }

  // Registers to shared memory.
  __device__ void store(int slab) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int index = threadIdx.x + i * Tile::kThreads;
      if (!kFits && index >= kCount * Tile::kSteps) break;
      const int step = loader_.steps_adjacent ? index % Tile::kSteps : index / kCount;
      const int row = loader_.steps_adjacent ? index / Tile::kSteps : index % kCount;
      shared_.slabs[slab][step][row] = held_[i];
    }
  }

  __device__ Vector<Compute, kThreadTile> read(int slab, int step, int first_row) const {
    return *reinterpret_cast<const Vector<Compute, kThreadTile>*>(&shared_.slabs[slab][step][first_row]);
  }

 private:
  static constexpr int kElements = (kCount * Tile::kSteps + Tile::kThreads - 1) / Tile::kThreads;
  static constexpr int kOwnRows = kCount > Tile::kThreads ? kCount / Tile::kThreads : 1;
  static constexpr bool kFits = kCount * Tile::kSteps % Tile::kThreads == 0;
  static_assert(kCount % Tile::kThreads == 0 || Tile::kThreads % kCount == 0);

  const Loader& loader_;
  Shared& shared_;
  typename Loader::Row own_rows_[kOwnRows];
  Compute held_[kElements];
};

// Tile `block` of C, of block_count (contract_launch.cuh).
template <class Tile, class Compute, class A, class B, class Sink>
__device__ void contract_tile(int64_t block, const ContractSizes& sizes, A a_loader, B b_loader,
                              const Sink& sink) {
  using OperandA = Operand<Tile, Tile::kRows, Compute, A>;
  using OperandB = Operand<Tile, Tile::kColumns, Compute, B>;
  __shared__ typename OperandA::Shared a_shared;
  __shared__ typename OperandB::Shared b_shared;

  // Blocks that follow each other share the columns, which are few.
  const Division row_tile = divide(block, divide_up(sizes.rows, Tile::kRows));
  const Division column_tile = divide(row_tile.quotient, divide_up(sizes.columns, Tile::kColumns));
  const Division split = divide(column_tile.quotient, sizes.splits);
  const int64_t first_row = row_tile.remainder * Tile::kRows;
  const int64_t first_column = column_tile.remainder * Tile::kColumns;
  const int64_t begin = split.remainder * sizes.split_steps;
  const int64_t end = begin + sizes.split_steps < sizes.steps ? begin + sizes.split_steps : sizes.steps;
  a_loader.to_group(split.quotient);
  b_loader.to_group(split.quotient);

  OperandA a(a_loader, a_shared);
  OperandB b(b_loader, b_shared);
  // Different warps find the places of A's steps and of B's.
  constexpr int kStepsOfB = Tile::kThreads / 2;
  const auto prepare_steps = [&](int slab, int64_t first) {
    a.prepare_steps(slab, 0, first, end);
    b.prepare_steps(slab, kStepsOfB, first, end);
  };
  a.prepare_rows(first_row, sizes.rows);
  b.prepare_rows(first_column, sizes.columns);
  prepare_steps(0, begin);
  __syncthreads();
  a.take_rows();
  b.take_rows();
  a.load(0);
  b.load(0);
  a.store(0);
  b.store(0);
  prepare_steps(1, begin + Tile::kSteps);
  __syncthreads();

  constexpr int kThreadColumns = Tile::kColumns / kThreadTile;
  const int row = threadIdx.x / kThreadColumns * kThreadTile;
  const int column = threadIdx.x % kThreadColumns * kThreadTile;
  Compute sums[kThreadTile][kThreadTile] = {};
  int slab = 0;
  for (int64_t first = begin; first < end; first += Tile::kSteps, slab ^= 1) {
    const bool more = first + Tile::kSteps < end;
    if (more) a.load(slab ^ 1), b.load(slab ^ 1);
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
      const auto x = a.read(slab, step, row), y = b.read(slab, step, column);
#pragma unroll
      for (int i = 0; i < kThreadTile; ++i) {
#pragma unroll
        for (int j = 0; j < kThreadTile; ++j) sums[i][j] += x.values[i] * y.values[j];
      }
    }
    if (more) {
      a.store(slab ^ 1), b.store(slab ^ 1);
      prepare_steps(slab, first + 2 * Tile::kSteps);
    }
    __syncthreads();
  }

  sink.store({split.quotient, split.remainder, first_row + row, first_column + column,
              sizes.rows - first_row - row, sizes.columns - first_column - column},
             sums);
}

template <class Tile, class Compute, class A, class B, class Sink>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocks) void contract(ContractSizes sizes, A a_loader,
                                                                          B b_loader, Sink sink) {
  contract_tile<Tile, Compute>(blockIdx.x, sizes, a_loader, b_loader, sink);
}

}  // namespace lenet_ext::cuda
