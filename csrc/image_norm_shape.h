// The sizes and options of a normalization of each image by itself: of groups of channels, or of the last
// dimensions.
#pragma once

#include <cstdint>

namespace lenet_ext {

// An image is `groups` groups of `size` values, each with a mean and a variance of its own. Its value i has
// element i / run % weights of the weight and of the bias: with one for each channel, run is a channel's values;
// with one for each value of a group it is 1.
struct ImageNormShape {
  int64_t groups = 1, size = 0, weights = 1, run = 0;
  double eps = 0;
};

}  // namespace lenet_ext
