// The launchers of csrc/cuda/, in the form of csrc/kernels.h. Pointers are to memory of the current device.
#pragma once

#include <type_traits>

#include "kernels.h"

namespace lenet_ext::cuda {

const Kernels& kernels();

// What kernels() gives; filled while the library is loaded.
struct Tables {
  TypedKernels typed[StoredTypes::kCount];
  Kernels kernels;
};
Tables& tables();

// A static object of a source file, which enters its launchers into the tables: enter(dtype, kernels of that
// dtype, kernels of any dtype), for each dtype; the first has its stored type.
template <class Enter>
class Entry {
 public:
  explicit Entry(const Enter& enter) { for_each(enter, StoredTypes{}); }

 private:
  template <class... Types>
  static void for_each(const Enter& enter, TypeList<Types...>) {
    Tables& to = tables();
    (enter(std::type_identity<Types>{}, to.typed[static_cast<int>(kDTypeOf<Types>)], to.kernels), ...);
  }
};

}  // namespace lenet_ext::cuda
