#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/neon.h"

namespace lenet_ext::cpu {

extern const TypedKernels neon_double_kernels = make_typed_kernels<simd::Neon, double>();

}  // namespace lenet_ext::cpu
