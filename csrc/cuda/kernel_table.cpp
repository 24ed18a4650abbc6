#include "cuda/launchers.h"

namespace lenet_ext::cuda {
namespace {

template <class Stored>
constexpr TypedKernels kTyped = {
    .conv2d = &conv2d<Stored>,
    .conv2d_input_grad = &conv2d_input_grad<Stored>,
    .conv2d_weight_grad = &conv2d_weight_grad<Stored>,
    .max_pool2d = &max_pool2d<Stored>,
    .max_pool2d_input_grad = &max_pool2d_input_grad<Stored>,
    .linear = &linear<Stored>,
    .linear_input_grad = &linear_input_grad<Stored>,
    .linear_weight_grad = &linear_weight_grad<Stored>,
    .net_forward = &net_forward<Stored>,
    .net_backward = &net_backward<Stored>,
    .net_train = &net_train<Stored>,
    .relu = &relu<Stored>,
    .relu_grad = &relu_grad<Stored>,
};

constexpr Kernels kKernels = {{&kTyped<float>, &kTyped<double>, &kTyped<BFloat16>, &kTyped<Float16>}};

}  // namespace

const Kernels& kernels() {
  return kKernels;
}

}  // namespace lenet_ext::cuda
