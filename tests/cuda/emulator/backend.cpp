// In place of csrc/ops/backend.cpp: the kernels of CUDA for tensors of the CPU.
#include "ops/backend.h"

#include "cuda/common/torch.h"
#include "cuda/kernel_table.h"

namespace lenet_ext {

Backend::Backend(const char*, const Tensor&) : kernels_(&cuda::kernels()), on_host_(false) {}

namespace cuda {

void* current_stream() {
  return nullptr;
}

Scratch::Scratch(int64_t bytes) : tensor_(empty_bytes(bytes, aoti_torch_device_type_cpu(), 0)) {
  check_torch("give the address of a tensor", aoti_torch_get_data_ptr(tensor_, &data_));
}

Scratch::~Scratch() {
  aoti_torch_delete_tensor_object(tensor_);
}

}  // namespace cuda
}  // namespace lenet_ext
