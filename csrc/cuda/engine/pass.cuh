// What the kernel of the fused engine (tile.cuh) takes: a chain of stages with their sizes, where their
// values lie in the memory of a tile, and what is read from and written to the device's memory.
//
// A tile is kImages images that a block takes through the whole chain. Every value of an image is a vector of
// kImages numbers, one of each image, so that a weight is loaded once for all of them.
#pragma once

#include "cuda/common/window.cuh"
#include "dtype.h"
#include "engine/passes.h"

namespace lenet_ext::cuda {

// 16 warps, which leaves each thread 128 of an SM's 65,536 registers.
inline constexpr int kTileThreads = 512;
inline constexpr int kMostStages = 32;
inline constexpr size_t kMostArgumentBytes = 32764;  // of a kernel, on sm_70 and newer
// Of an image, with padding, and of the weight of a convolution: tasks and places are 32-bit, and up to 8
// threads share a task, or 4 images a place.
inline constexpr int64_t kMostTileValues = int64_t{1} << 26;
inline constexpr int64_t kNowhere = -1;

// Where an image's values lie: (channel, h, w) at channel * plane + h * row + w + origin, from `at` bytes on
// in the memory of the tile. The input of a convolution has its padding around it, `size` counts that too.
struct View {
  int64_t at;
  int32_t size, origin, plane, row;
  int32_t height, width;  // without the padding

  __device__ int32_t index(int32_t channel, int32_t h, int32_t w) const {
    return channel * plane + h * row + w + origin;
  }
  // Of value i in the order (channel, h, w).
  __device__ int32_t index(int32_t i) const {
    if (is_dense()) return i;
    const auto column = divide(i, width), line = divide(column.quotient, height);
    return index(line.quotient, line.remainder, column.remainder);
  }
  __device__ bool is_dense() const { return row == width && plane == height * width; }
};

// Values one after the other.
__device__ inline View dense_view(int64_t at) {
  return {at, 0, 0, 0, 0, 0, 0};
}

template <class Compute>
struct TileStage {
  Stage::Core core;
  bool pooled, byte_argmax;
  ActivationCall activation, input_activation;  // input_activation: of the stage before
  Axis rows, columns;                           // of the convolution; 1 x 1 if there is none
  Axis pool_rows, pool_columns;
  int32_t groups, group_in, group_out;          // channels of a group, or features
  int32_t input_size, core_size, output_size;   // of an image, without padding
  int32_t chunk, back_chunk;                    // channels that a thread computes, forward and backward
  int32_t weight_stride, back_stride;           // channels of a group, rounded up to whole chunks
  View input, output, core_output;              // core_output: before the pool
  int64_t positions_at, grad_at, core_grad_at;  // grad: of the output
  int64_t input_grad_at;                        // kNowhere if it is not wanted

  const Compute* weight;                // conv2d: [group][channel][kh][kw][weight_stride]; linear: [out][in]
  const Compute* back_weight;           // conv2d: [group][out channel][kh][kw][back_stride]
  const Compute* bias;                  // or null
  Compute* saved;                       // [image][output_size], or null
  uint8_t* argmax;                      // [image][output_size] of 1 or 4 bytes each, or null
  Compute *linear_input, *linear_grad;  // [image][features], for the weight's gradient; or null
  Compute* partial;                     // conv2d: [block][weight and bias], or null
  int64_t weight_count, parameter_count;

  // The offset in a channel of the input of the patch that belongs to a pixel before the pool.
  __device__ int32_t patch_position(int32_t h, int32_t w) const {
    return h * rows.stride * input.row + w * columns.stride;
  }
};

// The loss of a training step.
struct TileLoss {
  LossKind kind;
  bool of_classes;
  int32_t classes, positions;  // of an output; with losses of elements one class
  int64_t ignored;             // the class whose targets count nothing
  double smoothing, width;     // width: beta or delta
  LossTensors tensors;
  const void* targets;
  const double* divisor;
};

template <class Compute>
struct TilePass {
  TileStage<Compute> stages[kMostStages];
  int32_t stage_count;
  int64_t batch;
  DType dtype;  // of images (unless bytes), targets, outputs
  Images images;
  View input;
  bool forward, backward;
  // Each may be null.
  void* output;
  const void* grad_output;
  void* grad_input;
  // For training; losses: one of each image.
  bool trains;
  TileLoss loss;
  Compute* losses;
  int32_t* bad;  // becomes 1 where the outputs or targets have no such loss
  // The memory of a tile, in shared memory or for each block in `workspace`.
  int64_t tile_bytes;
  unsigned char* workspace;
};
static_assert(sizeof(TilePass<double>) <= kMostArgumentBytes);

}  // namespace lenet_ext::cuda
