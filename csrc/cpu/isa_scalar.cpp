#include "cpu/kernel_table.h"
#include "cpu/simd/scalar.h"

namespace lenet_ext::cpu {

extern const Kernels scalar_kernels = make_kernels<simd::Scalar1>();

}  // namespace lenet_ext::cpu
