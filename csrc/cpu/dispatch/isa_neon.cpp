#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/neon.h"

namespace lenet_ext::cpu {

extern const TypedKernels neon_double_kernels;
extern const Kernels neon_kernels = make_kernels<simd::Neon>(neon_double_kernels);

}  // namespace lenet_ext::cpu
