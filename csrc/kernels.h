// What every instruction set of the CPU offers, and CUDA: one function per operator and dtype. Data pointers
// are of the stored type, in the memory of the device; tensors are dense in the stated format. Arguments were
// checked before (shapes.h, engine/network.h).
#pragma once

#include "activation.h"
#include "dtype.h"
#include "engine/passes.h"
#include "engine/sample_passes.h"
#include "shapes.h"

namespace lenet_ext {

// bias may be null. All image tensors are in `format`, the weight is contiguous.
struct Conv2dKernels {
  void (*forward)(const Conv2dShape& shape, Format format, const void* input, const void* weight,
                  const void* bias, void* output);
  void (*input_grad)(const Conv2dShape& shape, Format format, const void* grad_output, const void* weight,
                     void* grad_input);
  void (*weight_grad)(const Conv2dShape& shape, Format format, const void* grad_output, const void* input,
                      void* grad_weight, void* grad_bias);
};

// argmax: uint8_t or int32_t (MaxPool2dShape::byte_argmax); null if it is not wanted.
struct MaxPool2dKernels {
  void (*forward)(const MaxPool2dShape& shape, Format format, const void* input, void* output, void* argmax);
  void (*input_grad)(const MaxPool2dShape& shape, Format format, const void* grad_output, const void* argmax,
                     void* grad_input);
};

// Matrices are row-major; biases may be null.
struct LinearKernels {
  void (*forward)(const LinearShape& shape, const void* input, const void* weight, const void* bias,
                  void* output);
  void (*input_grad)(const LinearShape& shape, const void* grad_output, const void* weight, void* grad_input);
  void (*weight_grad)(const LinearShape& shape, const void* grad_output, const void* input, void* grad_weight,
                      void* grad_bias);
};

// The gradient from that of the output, and `saved`: the output, or the input (gradient_from_output). Results
// may be written over what is read.
struct ActivationKernels {
  void (*forward)(const ActivationCall& call, int64_t count, const void* input, void* output);
  void (*input_grad)(const ActivationCall& call, int64_t count, const void* grad_output, const void* saved,
                     void* grad_input);
};

struct NetworkKernels {
  void (*forward)(const NetworkPtr& network, const ForwardPass& pass);
  void (*backward)(const NetworkPtr& network, const BackwardPass& pass);
  void (*train)(const NetworkPtr& network, const TrainPass& pass);
  // Of the CPU alone.
  void (*sample_gradients)(const NetworkPtr& network, const SampleGradientsPass& pass) = nullptr;
  void (*clipped_sums)(const NetworkPtr& network, const ClippedSumsPass& pass) = nullptr;
  void (*noisy_update)(const Network& network, const TrainPass& pass, const NoisySums& sums) = nullptr;
  // For images of the stored type or bytes. parameters: in the compute type; they must outlive the result. Null
  // on CUDA.
  std::unique_ptr<const FrozenPass> (*freeze)(const NetworkPtr& network,
                                              const void* const* parameters) = nullptr;
};

struct TypedKernels {
  Conv2dKernels conv2d;
  MaxPool2dKernels max_pool2d;
  LinearKernels linear;
  ActivationKernels activation;
  // Null where there is none.
  void (*dropout_mask)(int64_t count, int64_t channels, int64_t plane, double p, uint32_t layer,
                       uint64_t seed, void* mask);
  NetworkKernels network;
};

struct Kernels {
  ByDType<const TypedKernels*> typed;
  // argmax as flat positions h * W + w of the input plane, which is the same for all dtypes.
  void (*max_pool2d_indices)(const MaxPool2dShape& shape, Format format, const void* argmax,
                             int64_t* indices);

  const TypedKernels& operator[](DType dtype) const { return *typed[dtype]; }
};

}  // namespace lenet_ext
