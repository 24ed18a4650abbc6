// The launchers of csrc/cuda/<op>.cu, in the form of csrc/kernels.h. Pointers are to memory of the current
// device. Stored: float, double, BFloat16 or Float16.
#pragma once

#include "kernels.h"

namespace lenet_ext::cuda {

template <class Stored>
void conv2d(const Conv2dShape& shape, Format format, const void* input, const void* weight, const void* bias,
            void* output);
template <class Stored>
void conv2d_input_grad(const Conv2dShape& shape, Format format, const void* grad_output, const void* weight,
                       void* grad_input);
template <class Stored>
void conv2d_weight_grad(const Conv2dShape& shape, Format format, const void* grad_output, const void* input,
                        void* grad_weight, void* grad_bias);

template <class Stored>
void linear(const LinearShape& shape, const void* input, const void* weight, const void* bias, void* output);
template <class Stored>
void linear_input_grad(const LinearShape& shape, const void* grad_output, const void* weight,
                       void* grad_input);
template <class Stored>
void linear_weight_grad(const LinearShape& shape, const void* grad_output, const void* input,
                        void* grad_weight, void* grad_bias);

template <class Stored>
void max_pool2d(const MaxPool2dShape& shape, Format format, const void* input, void* output, void* taps);
template <class Stored>
void max_pool2d_input_grad(const MaxPool2dShape& shape, Format format, const void* grad_output,
                           const void* taps, void* grad_input);
void max_pool2d_indices(const MaxPool2dShape& shape, Format format, const void* taps, int64_t* indices);

template <class Stored>
void relu(int64_t count, const void* input, void* output);
template <class Stored>
void relu_grad(int64_t count, const void* grad_output, const void* output, void* grad_input);

template <class Stored>
void net_forward(const NetShape& shape, const NetForward& pass);
template <class Stored>
void net_backward(const NetShape& shape, const NetBackward& pass);
template <class Stored>
void net_train(const NetShape& shape, const NetTrain& pass);

const Kernels& kernels();

}  // namespace lenet_ext::cuda
