#include "ops/backend.h"

#include "cpu/dispatch/isa.h"

#if LENET_EXT_CUDA
#include "cuda/common/torch.h"
#include "cuda/kernel_table.h"

// Missing in a torch without CUDA, where this module is loaded all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** stream);
#endif

namespace lenet_ext {
namespace {

bool is_on_cuda(const Tensor& tensor) {
  int32_t type;
  check_torch("tell a device", aoti_torch_get_device_type(tensor.get(), &type));
  return type == aoti_torch_device_type_cuda();
}

}  // namespace

Backend::Backend(const char* op, const Tensor& tensor) : kernels_(&cpu::kernels()) {
  if (!is_on_cuda(tensor)) return;
#if LENET_EXT_CUDA
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    fail(op, ": a tensor is on ", device_of(tensor),
         ", but the installed torch has no CUDA: install one that has");
  }
  kernels_ = &cuda::kernels();
  on_host_ = false;
  guard_.emplace(tensor.get_device_index());
#else
  fail(op, ": a tensor is on ", device_of(tensor),
       ", but lenet_ext was built without CUDA: build it where nvcc is found");
#endif
}

#if LENET_EXT_CUDA
namespace cuda {

void* current_stream() {
  void* stream;
  check_torch("give its current stream", aoti_torch_get_current_cuda_stream(
                                             torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  return stream;
}

// Torch's allocator orders the memory by stream: what is given back here is used again only by later kernels.
Scratch::Scratch(int64_t bytes)
    : tensor_(empty_bytes(bytes, aoti_torch_device_type_cuda(),
                          torch::stable::accelerator::getCurrentDeviceIndex())) {
  check_torch("give the address of a tensor", aoti_torch_get_data_ptr(tensor_, &data_));
}

Scratch::~Scratch() {
  aoti_torch_delete_tensor_object(tensor_);
}

}  // namespace cuda
#endif

}  // namespace lenet_ext
