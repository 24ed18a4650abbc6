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
  const Kernels& of_any_dtype() const { return *kernels_; }

  // Whether this program may read tensors' data: values can then be checked before kernels run.
  bool on_host() const { return on_host_; }

 private:
  const Kernels* kernels_;
  bool on_host_ = true;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

}  // namespace lenet_ext
