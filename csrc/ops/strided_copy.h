// A copy from any strides to any others, on the calling thread: for forked children, where torch's own may
// wait for threads that do not exist.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "shapes.h"

namespace lenet_ext {

// One dimension; strides in bytes.
struct CopyAxis {
  int64_t size, from_stride, to_stride;
};

template <size_t kBytes>
void copy_along(const CopyAxis* axis, const CopyAxis* end, const char* from, char* to) {
  if (axis == end) {
    std::memcpy(to, from, kBytes);
    return;
  }
  const auto [size, from_stride, to_stride] = *axis++;
  if (axis == end) {
    for (int64_t i = 0; i < size; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, kBytes);
  } else {
    for (int64_t i = 0; i < size; ++i) {
      copy_along<kBytes>(axis, end, from + i * from_stride, to + i * to_stride);
    }
  }
}

// strides in elements, all of the length of `sizes`; element_bytes 1, 2, 4 or 8.
inline void strided_copy(Sizes sizes, Sizes from_strides, Sizes to_strides, int64_t element_bytes,
                         const void* from, void* to) {
  std::vector<CopyAxis> axes;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return;
    if (sizes[i] > 1) {
      axes.push_back({sizes[i], from_strides[i] * element_bytes, to_strides[i] * element_bytes});
    }
  }
  // It is written in the order of memory.
  std::ranges::stable_sort(axes, std::ranges::greater{}, &CopyAxis::to_stride);
  const auto copy = [&]<size_t kBytes>() {
    copy_along<kBytes>(axes.data(), axes.data() + axes.size(), static_cast<const char*>(from),
                       static_cast<char*>(to));
  };
  switch (element_bytes) {
    case 1:
      return copy.template operator()<1>();
    case 2:
      return copy.template operator()<2>();
    case 4:
      return copy.template operator()<4>();
    case 8:
      return copy.template operator()<8>();
    default:
      fail("lenet_ext: elements of ", element_bytes, " bytes cannot be copied");
  }
}

}  // namespace lenet_ext
