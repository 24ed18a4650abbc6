#include "cpu/kernel_table.h"
#include "cpu/simd/avx2.h"

namespace lenet_ext::cpu {

extern const Kernels avx2_kernels = make_kernels<simd::Avx2>();

}  // namespace lenet_ext::cpu
