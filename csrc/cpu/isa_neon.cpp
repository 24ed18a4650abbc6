#include "cpu/kernel_table.h"
#include "cpu/simd/neon.h"

namespace lenet_ext::cpu {

extern const Kernels neon_kernels = make_kernels<simd::Neon>();

}  // namespace lenet_ext::cpu
