// What every instruction set of the CPU offers, and CUDA: one function per operator and dtype. Data pointers
// are of the stored type, in the memory of the device; tensors are dense in the stated format. Arguments were
// checked before (shapes.h).
#pragma once

#include "dtype.h"
#include "engine/passes.h"
#include "shapes.h"

namespace lenet_ext {

struct TypedKernels {
  // bias may be null. All image tensors are in `format`, the weight is contiguous.
  void (*conv2d)(const Conv2dShape& shape, Format format, const void* input, const void* weight,
                 const void* bias, void* output);
  void (*conv2d_input_grad)(const Conv2dShape& shape, Format format, const void* grad_output,
                            const void* weight, void* grad_input);
  void (*conv2d_weight_grad)(const Conv2dShape& shape, Format format, const void* grad_output,
                             const void* input, void* grad_weight, void* grad_bias);
  // taps: uint8_t or int32_t (MaxPool2dShape::byte_taps); null if they are not wanted.
  void (*max_pool2d)(const MaxPool2dShape& shape, Format format, const void* input, void* output, void* taps);
  void (*max_pool2d_input_grad)(const MaxPool2dShape& shape, Format format, const void* grad_output,
                                const void* taps, void* grad_input);
  // Matrices are row-major; biases may be null.
  void (*linear)(const LinearShape& shape, const void* input, const void* weight, const void* bias,
                 void* output);
  void (*linear_input_grad)(const LinearShape& shape, const void* grad_output, const void* weight,
                            void* grad_input);
  void (*linear_weight_grad)(const LinearShape& shape, const void* grad_output, const void* input,
                             void* grad_weight, void* grad_bias);
  // The fused engine.
  void (*net_forward)(const NetShape& shape, const NetForward& pass);
  void (*net_backward)(const NetShape& shape, const NetBackward& pass);
  void (*net_train)(const NetShape& shape, const NetTrain& pass);
  void (*relu)(int64_t count, const void* input, void* output);
  void (*relu_grad)(int64_t count, const void* grad_output, const void* output, void* grad_input);
};

struct Kernels {
  const TypedKernels* typed[kDTypeCount];  // by DType

  const TypedKernels& operator[](DType dtype) const { return *typed[static_cast<int>(dtype)]; }
};

}  // namespace lenet_ext
