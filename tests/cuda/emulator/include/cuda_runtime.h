// Stands for CUDA's header of this name, so that a C++ compiler takes csrc/cuda/*.cu and the kernels run on
// the CPU: one block after the other, the threads of a block as fibers (../block.h). As much of CUDA as the
// kernels use. They have shared memory as static arrays, which holds because blocks take turns.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __noinline__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;

  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

// The device: of a size that CUDA_EMULATOR_SHARED and CUDA_EMULATOR_MULTIPROCESSORS in the environment set,
// so that small tests meet what large networks and batches meet on a real one.
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount
               ? cuda_emulator::number_from_environment("CUDA_EMULATOR_MULTIPROCESSORS", 3)
               : cuda_emulator::number_from_environment("CUDA_EMULATOR_SHARED", 227 * 1024);
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  constexpr unsigned kMostThreads = 1024;
  const bool one_dimensional =
      config->gridDim.y * config->gridDim.z * config->blockDim.y * config->blockDim.z == 1;
  if (!one_dimensional || config->gridDim.x == 0 || config->blockDim.x == 0 ||
      config->blockDim.x > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  gridDim = config->gridDim, blockDim = config->blockDim;
  cuda_emulator::Block block(static_cast<int>(blockDim.x), [&] { kernel(arguments...); });
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    const cuda_emulator::SharedMemory memory(config->dynamicSmemBytes);
    block.run();
  }
  return cudaSuccess;
}

inline void __syncthreads() {
  cuda_emulator::wait(cuda_emulator::Waiting::kForBlock);
}

// All 32 threads of the warp take part, each with a value of up to 8 bytes.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return cuda_emulator::exchange(mask, value, static_cast<int>(threadIdx.x % 32) ^ lane_mask);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_emulator::exchange(mask, value, static_cast<int>(lane + delta < 32 ? lane + delta : lane));
}

inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t __float_as_uint(float value) {
  return std::bit_cast<uint32_t>(value);
}
