// In place of csrc/ops/backend.cpp: the kernels of CUDA for tensors of the CPU.
#include "ops/backend.h"

#include "cuda/common/torch.h"
#include "cuda/launchers.h"

namespace lenet_ext {

Backend::Backend(const char*, const Tensor&)
    : kernels_(&cuda::kernels()), on_host_(false), max_pool2d_indices_(&cuda::max_pool2d_indices) {}

namespace cuda {

void* current_stream() {
  return nullptr;
}

Scratch::Scratch(int64_t bytes) : tensor_(empty_bytes(bytes, aoti_torch_device_type_cpu(), 0)) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor_, &data_));
}

Scratch::~Scratch() {
  aoti_torch_delete_tensor_object(tensor_);
}

}  // namespace cuda
}  // namespace lenet_ext
