#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/avx512.h"

namespace lenet_ext::cpu {

extern const TypedKernels avx512_double_kernels;
extern const Kernels avx512_kernels = make_kernels<simd::Avx512>(avx512_double_kernels);

}  // namespace lenet_ext::cpu
