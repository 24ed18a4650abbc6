// For functions that kernels of CUDA call as the CPU does.
#pragma once

#ifdef __CUDACC__
#define LENET_EXT_HOST_DEVICE __host__ __device__
#else
#define LENET_EXT_HOST_DEVICE
#endif
