#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/avx2.h"

namespace lenet_ext::cpu {

extern const TypedKernels avx2_double_kernels = make_typed_kernels<simd::Avx2, double>();

}  // namespace lenet_ext::cpu
