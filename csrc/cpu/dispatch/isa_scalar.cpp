#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/scalar.h"

namespace lenet_ext::cpu {

extern const TypedKernels scalar_double_kernels;
extern const Kernels scalar_kernels = make_kernels<simd::Scalar1>(scalar_double_kernels);

}  // namespace lenet_ext::cpu
