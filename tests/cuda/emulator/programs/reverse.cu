// A kernel that reverses each block's part of an array through shared memory, right as it stands. With
// MISSING_BARRIER, threads read what others may not have written; with OUT_OF_BOUNDS, one writes behind the
// array; with EARLY_END, one ends before the barrier.
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

constexpr int kThreads = 64, kBlocks = 3;

__global__ void reverse(const int* input, int* output) {
  __shared__ int values[kThreads];
  const int i = threadIdx.x, first = blockIdx.x * kThreads;
  values[i] = input[first + i];
#if defined(EARLY_END)
  if (i == 5) return;
#endif
#if !defined(MISSING_BARRIER)
  __syncthreads();
#endif
  output[first + i] = values[kThreads - 1 - i];
#if defined(OUT_OF_BOUNDS)
  output[first + i + 1] = 0;
#endif
}

// Sums of a warp, by both shuffles.
__global__ void sum_lanes(const int* input, int* output) {
  int down = input[threadIdx.x], across = down;
  for (int distance = 16; distance > 0; distance /= 2) {
    down += __shfl_down_sync(0xffffffffu, down, distance);
    across += __shfl_xor_sync(0xffffffffu, across, distance);
  }
  output[2 * threadIdx.x] = threadIdx.x % 32 == 0 ? down : across;
  output[2 * threadIdx.x + 1] = across;
}

int main() {
  constexpr int kCount = kThreads * kBlocks;
  std::vector<int> input(kCount), output(kCount), sums(2 * kThreads);
  for (int i = 0; i < kCount; ++i) input[i] = i;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kThreads);
  if (cudaLaunchKernelEx(&config, &reverse, input.data(), output.data()) != cudaSuccess) return 1;
  for (int value : output) std::printf("%d ", value);
  config.gridDim = dim3(1);
  if (cudaLaunchKernelEx(&config, &sum_lanes, input.data(), sums.data()) != cudaSuccess) return 1;
  for (int value : sums) std::printf("%d ", value);
}
