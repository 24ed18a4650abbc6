// The one place where an operator chooses between the kernels of the CPU and those of CUDA.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "kernels.h"
#include "ops/tensor.h"

namespace lenet_ext {

// The kernels for the device of a tensor, which is torch's current device as long as this lives.
class Backend {
 public:
  // Throws where that device has no kernels, in this build or in the torch that is installed.
  Backend(const char* op, const Tensor& tensor);

  const TypedKernels& operator[](DType dtype) const { return (*kernels_)[dtype]; }

  // Whether this program may read tensors' data: values can then be checked before kernels run.
  bool on_host() const { return on_host_; }

  // Taps as flat positions h * W + w of the input plane, which is the same for all dtypes.
  void max_pool2d_indices(const MaxPool2dShape& shape, Format format, const void* taps,
                          int64_t* indices) const {
    max_pool2d_indices_(shape, format, taps, indices);
  }

 private:
  const Kernels* kernels_;
  bool on_host_ = true;
  void (*max_pool2d_indices_)(const MaxPool2dShape& shape, Format format, const void* taps, int64_t* indices);
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

}  // namespace lenet_ext
