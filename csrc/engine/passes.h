// What the passes of the fused engine take: plain pointers, checked before (csrc/ops/network.cpp).
#pragma once

#include "engine/network.h"

namespace lenet_ext {

// Images of the stored type or bytes, dense one after the other. Image i of the pass is order[i] of `data`
// (i itself where order is null). Bytes become byte * scale[channel] + shift[channel].
struct NetImages {
  const void* data;
  const int64_t* order;
  int64_t available;  // images of `data`
  bool bytes;
  const float *scale, *shift;
};

enum class Loss : int64_t { kCrossEntropy, kMeanSquaredError };

struct SgdOptions {
  double lr, momentum, weight_decay;
  bool nesterov;
};

struct NetForward {
  NetImages images;
  const void* const* parameters;
  void* output;
  // For backward, of the whole batch in the compute type; or null.
  void* saved;
  uint8_t* taps;
};

struct NetBackward {
  NetImages images;
  const void* const* parameters;
  const void* grad_output;
  const void* saved;
  const uint8_t* taps;
  void* grad_input;              // may be null
  void* const* grad_parameters;  // like parameters; may be null
};

struct NetTrain {
  NetImages images;
  const void* targets;  // int64_t classes (cross entropy), or values of the stored type like the output
  Loss loss;
  SgdOptions sgd;
  const double* lr;  // on CUDA: read by the kernel in place of sgd.lr; or null
  void* const* parameters;
  void* buffers;    // the running sums of all parameters, one after the other; null without momentum
  void* mean_loss;  // one value of the stored type
};

}  // namespace lenet_ext
