#include "cpu/dispatch/kernel_table.h"
#include "cpu/simd/scalar.h"

namespace lenet_ext::cpu {

extern const TypedKernels scalar_double_kernels = make_typed_kernels<simd::Scalar1, double>();

}  // namespace lenet_ext::cpu
