#include "cpu/kernel_table.h"
#include "cpu/simd/avx512.h"

namespace lenet_ext::cpu {

extern const Kernels avx512_kernels = make_kernels<simd::Avx512>();

}  // namespace lenet_ext::cpu
