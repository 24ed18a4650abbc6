// Where kernel_table.cpp, compiled once for each instruction set and compute type, leaves what it compiled.
#pragma once

#include "kernels.h"

namespace lenet_ext {

// The wrappers of csrc/cpu/simd/, each in a file that needs the flags of its set.
namespace simd {

template <class T>
struct Scalar1;
template <class T>
struct Avx2;
template <class T>
struct Avx512;
template <class T>
struct Neon;

}  // namespace simd

namespace cpu {

// Enters the kernels of an instruction set for the dtypes that are computed in `Compute`.
template <template <class> class Simd, class Compute>
void enter_kernels(ByDType<const TypedKernels*>& kernels);

}  // namespace cpu
}  // namespace lenet_ext
