// The sizes and options of a batch normalization.
#pragma once

#include <cstdint>

namespace lenet_ext {

struct BatchNormShape {
  int64_t channels, plane;  // of an image: (channels, plane)
  double eps;

  int64_t image() const { return channels * plane; }
  // Of the statistics of a batch: mean, 1 / sqrt(variance + eps), the unbiased variance, and what rounding
  // took from the mean, of each channel.
  int64_t statistics_size() const { return 4 * channels; }
};

}  // namespace lenet_ext
