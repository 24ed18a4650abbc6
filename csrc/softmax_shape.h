// The sizes of a softmax over one dimension.
#pragma once

#include <cstdint>

namespace lenet_ext {

struct SoftmaxShape {
  int64_t outer, size, inner;  // elements before, in and behind the dimension
  bool logarithm;
};

}  // namespace lenet_ext
