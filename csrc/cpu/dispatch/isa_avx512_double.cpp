#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/avx512.h"

namespace lenet_ext::cpu {

extern const TypedKernels avx512_double_kernels = make_typed_kernels<simd::Avx512, double>();

}  // namespace lenet_ext::cpu
