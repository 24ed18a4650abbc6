// Large results in huge pages.
#pragma once

#include "ops/tensor.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lenet_ext {

// Asks the system to map the memory of a tensor that was just made in huge pages, where it is large: a page
// fault for each 4 KiB of it may take longer than to compute what is written there.
inline void prefer_huge_pages(const Tensor& tensor) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 4096, kLeast = 4 * 1024 * 1024;
  if (!is_on_cpu(tensor)) return;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t end = begin + static_cast<uintptr_t>(tensor.numel() * tensor.element_size());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  if (end - begin < kLeast) return;
  // Advice alone: where it is not taken nothing is different.
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace lenet_ext
