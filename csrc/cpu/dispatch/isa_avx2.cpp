#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/avx2.h"

namespace lenet_ext::cpu {

extern const TypedKernels avx2_double_kernels;
extern const Kernels avx2_kernels = make_kernels<simd::Avx2>(avx2_double_kernels);

}  // namespace lenet_ext::cpu
