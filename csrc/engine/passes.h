// What the passes of the fused engine take: plain pointers, checked before (csrc/ops/network_tensors.h).
#pragma once

#include "engine/network.h"

namespace lenet_ext {

// The images of a pass, of the stored type or bytes, dense one after the other. Image i is order[i] of `data`
// (i itself where order is null). Bytes become byte * scale[channel] + shift[channel].
struct Images {
  const void* data;
  int64_t count;         // images of the pass
  const int64_t* order;  // or null
  int64_t available;     // images of `data`
  bool bytes;
  const float *scale, *shift;
};

struct ForwardPass {
  Images images;
  const void* const* parameters;
  uint64_t seed;         // of dropout
  void* const* outputs;  // by Network::outputs
  // For backward, of the whole batch (Network::saved_size, argmax_before), the values in the compute type; or
  // null.
  void* saved;
  uint8_t* argmax;
};

// Forward passes of a network whose parameters stay what they are.
class FrozenPass {
 public:
  FrozenPass() = default;
  FrozenPass(const FrozenPass&) = delete;
  FrozenPass& operator=(const FrozenPass&) = delete;
  virtual ~FrozenPass() = default;

  // images: one at least. outputs: by Network::outputs. May be called by several threads at once.
  virtual void run(const Images& images, void* const* outputs) const = 0;
};

struct BackwardPass {
  Images images;
  const void* const* parameters;
  uint64_t seed;
  const void* const* grad_outputs;
  const void* saved;
  const uint8_t* argmax;
  void* grad_input;  // may be null
  // Like parameters; may be null. Zero where several layers read the parameter, or none does.
  void* const* grad_parameters;
};

struct TrainPass {
  Images images;
  const void* targets;  // of all available images: int64_t classes, or values of the stored type
  void* const* parameters;
  uint64_t seed;
  void* statistics;  // Network::statistics_before of all stages, in the compute type: written
  // A row for each parameter, on the device of the parameters: 1 if the parameter is to be changed, else 0,
  // and the options of the network's optimizer. Entries of one memory are one parameter, with equal rows.
  const double* options;
  // For each of the optimizer's names a pointer for each parameter, all null where no parameter has any.
  void* const* state;
  // How many steps each parameter has taken, of those that are trained one more after the pass; null where the
  // optimizer does not count. On the device of the parameters.
  float* steps;
  void* batch_loss;  // one value of the stored type
  LossTensors loss = {};
  // Becomes true where the outputs have no loss and the step was not taken; null where the device keeps that
  // to itself, and gives the loss NaN.
  bool* refused = nullptr;
};

// Doubles of a row of TrainPass::options.
inline int64_t options_per_parameter(const Network& network) {
  return 1 + static_cast<int64_t>(kOptimizers[static_cast<int>(*network.optimizer)].options.size());
}

// Whether a parameter is used in several places: under one number, or under several with one memory.
inline bool shares_parameters(const Network& network, const TrainPass& pass) {
  const auto count = static_cast<int64_t>(network.parameter_readers.size());
  for (int64_t i = 0; i < count; ++i) {
    if (network.parameter_readers[i] == 0) continue;
    if (network.parameter_readers[i] > 1) return true;
    for (int64_t k = 0; k < i; ++k) {
      if (network.parameter_readers[k] > 0 && pass.parameters[k] == pass.parameters[i]) return true;
    }
  }
  return false;
}

}  // namespace lenet_ext
