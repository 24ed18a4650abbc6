// What the launchers need from torch: given by csrc/ops/backend.cpp, since kernels know nothing of torch.
#pragma once

#include <cstdint>

struct AtenTensorOpaque;

namespace lenet_ext::cuda {

// Torch's current cudaStream_t on the current device.
void* current_stream();

// Memory on the current device, for the kernels launched into the current stream while this lives.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  AtenTensorOpaque* tensor_;
  void* data_;
};

}  // namespace lenet_ext::cuda
