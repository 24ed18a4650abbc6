// What every instruction set offers: one function per operator and dtype. Data pointers are of the stored type;
// tensors are dense in the stated format. Arguments were checked before (shapes.h).
#pragma once

#include "cpu/dtype.h"
#include "shapes.h"

namespace lenet_ext::cpu {

struct TypedKernels {
  void (*relu)(int64_t count, const void* input, void* output);
  void (*relu_grad)(int64_t count, const void* grad_output, const void* output, void* grad_input);
};

struct Kernels {
  TypedKernels typed[kDTypeCount];  // by DType

  const TypedKernels& operator[](DType dtype) const { return typed[static_cast<int>(dtype)]; }
};

}  // namespace lenet_ext::cpu
