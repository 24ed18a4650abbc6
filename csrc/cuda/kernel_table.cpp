#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {

Tables& tables() {
  static Tables tables;
  return tables;
}

const Kernels& kernels() {
  static const Kernels kernels = [] {
    Kernels all = tables().kernels;
    for (int i = 0; i < StoredTypes::kCount; ++i) all.typed.values[i] = &tables().typed[i];
    return all;
  }();
  return kernels;
}

}  // namespace lenet_ext::cuda
