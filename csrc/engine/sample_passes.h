// What the passes take that tell the images of a batch apart: each is a batch of its own, with a loss and with
// gradients of its own. Plain pointers, checked before (csrc/ops/network_samples.cpp).
#pragma once

#include <span>

#include "engine/passes.h"

namespace lenet_ext {

struct SamplePass {
  Images images;
  const void* targets;  // of all available images
  const void* const* parameters;
  uint64_t seed;
  LossTensors loss;
  // Of each parameter: which of the gradients that are wanted is its own, -1 where none is. Parameters that are
  // one in the model have one gradient.
  std::span<const int64_t> places;
  // Becomes true where an output has no loss; what was written is then without meaning.
  bool* refused;
};

struct SampleGradientsPass {
  SamplePass samples;
  void* const* gradients;  // by place: those of each image, one after the other, of the stored type
};

// The sums over the batch of the gradients of each image, scaled down where their norm over all that are wanted
// is greater than max_norm: times min(1, max_norm / (norm + 1e-6)).
struct ClippedSumsPass {
  SamplePass samples;
  double max_norm;
  void* const* sums;  // by place: in the compute type
  double* loss;       // becomes the sum of the losses of the images
};

// The gradients (sums + noise) / divisor of some parameters, one after the other: the sums in the compute type,
// which the gradients take the place of; the noise of the stored type, or null.
struct NoisySums {
  std::span<const int64_t> parameters;
  void* sums;
  const void* noise;
  double divisor;
};

}  // namespace lenet_ext
