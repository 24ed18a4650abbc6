// Launches kernels: the only place that does. A kernel is launched by a function of the runtime, not by
// <<<>>>, so that a plain C++ compiler reads the same sources (tests/cuda/emulator).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/common/torch.h"
#include "shapes.h"

namespace lenet_ext::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

// For kernels with one thread per element: 8 warps fill an SM whatever their registers, up to 32 per thread.
inline constexpr int kElementThreads = 256;

// Rounded up; divisor > 0.
__host__ __device__ constexpr int64_t divide_up(int64_t count, int64_t divisor) {
  return (count + divisor - 1) / divisor;
}

inline void check_cuda(const char* op, const char* action, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it would be found again by the next call that looks
  fail(op, ": CUDA could not ", action, ": ", cudaGetErrorString(error));
}

// Launches `blocks` blocks of `threads` threads into torch's current stream; none where blocks is 0. op: for
// the error. shared_bytes: what shared_memory() gives each block.
template <class... Parameters>
void launch_with_shared_memory(const char* op, int64_t blocks, int threads, int64_t shared_bytes,
                               void (*kernel)(Parameters...),
                               const std::type_identity_t<Parameters>&... arguments) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<int32_t>::max()) {
    fail(op, ": the tensors are too large for CUDA: ", blocks, " blocks of threads");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(current_stream());
  check_cuda(op, "launch the kernel", cudaLaunchKernelEx(&config, kernel, arguments...));
}

template <class... Parameters>
void launch(const char* op, int64_t blocks, int threads, void (*kernel)(Parameters...),
            const std::type_identity_t<Parameters>&... arguments) {
  launch_with_shared_memory(op, blocks, threads, 0, kernel, arguments...);
}

// One thread for each of `count` elements.
template <class... Parameters>
void launch_elements(const char* op, int64_t count, void (*kernel)(Parameters...),
                     const std::type_identity_t<Parameters>&... arguments) {
  launch(op, divide_up(count, kElementThreads), kElementThreads, kernel, arguments...);
}

__device__ inline int64_t element_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

#ifdef __CUDACC__
// The memory that the launch gave to the block, aligned to what a vector may be.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char block_memory[];
  return block_memory;
}
#else
using cuda_emulator::shared_memory;
#endif

// Positions along one axis of an image are 32-bit, and small enough that the sums of two markers are.
inline constexpr int64_t kMostPositions = int64_t{1} << 29;

inline void check_positions(const char* op, int64_t padded_height, int64_t padded_width) {
  if (padded_height >= kMostPositions || padded_width >= kMostPositions) {
    fail(op, ": on CUDA the padded input must have less than ", kMostPositions, " rows and columns, got ",
         padded_height, " x ", padded_width);
  }
}

template <class Index>
struct DivisionOf {
  Index quotient, remainder;
};
using Division = DivisionOf<int64_t>;

// For value >= 0 and divisor > 0.
__device__ inline DivisionOf<int32_t> divide(int32_t value, int32_t divisor) {
  const auto v = static_cast<uint32_t>(value), d = static_cast<uint32_t>(divisor);
  return {static_cast<int32_t>(v / d), static_cast<int32_t>(v % d)};
}

// The 32-bit division takes a fraction of the time of the 64-bit one.
__device__ inline Division divide(int64_t value, int64_t divisor) {
  if (((value | divisor) >> 32) == 0) {
    const auto v = static_cast<uint32_t>(value), d = static_cast<uint32_t>(divisor);
    return {v / d, v % d};
  }
  return {value / divisor, value % divisor};
}

}  // namespace lenet_ext::cuda
