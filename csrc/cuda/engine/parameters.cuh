// The parameters of the fused engine: made ready for a pass, and changed by their gradients after it.
#pragma once

#include "cuda/common/number.cuh"
#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

// Before a pass: weights in the compute type, those of convolutions with the channels that a thread computes
// side by side, rounded up to whole chunks with zeros.
template <class Stored>
struct ReadyStage {
  using Compute = ComputeType<Stored>;

  bool is_conv2d;
  int32_t group_in, group_out, taps, weight_stride, back_stride;
  const Stored *weight, *bias;
  // Null where nothing is to be written; linear weights and biases only change their type.
  Compute *ready, *ready_back, *ready_bias;
  int64_t ready_count, back_count, bias_count;
};

// Class targets and the order of images, which a step must not follow where they are out of range.
struct IndexCheck {
  const int64_t* indices;  // or null
  int64_t count, size;     // each must be in [0, size)
};

template <class Stored>
struct ReadyParameters {
  ReadyStage<Stored> stages[kMostStages];
  int32_t stage_count;
  IndexCheck order, targets;  // targets: those of the images in this order
  int32_t* bad;               // becomes whether an index is out of range; or null
};

// After a pass: the sum of a stage's partial gradients, [slice][weight and bias], goes to `weight` and `bias`
// as it is, or as a step of SGD.
template <class Stored>
struct SummedStage {
  const ComputeType<Stored>* partial;
  int64_t slices, count, weight_count;
  Stored *weight, *bias, *buffer;  // buffer: the running sums of SGD, or null
};

template <class Stored>
struct SummedParameters {
  SummedStage<Stored> stages[kMostStages];
  int32_t stage_count;
  // For training:
  bool trains;
  SgdOptions sgd;
  const double* lr;  // in place of sgd.lr, or null
  const int32_t* bad;
  const ComputeType<Stored>* losses;
  int64_t batch;
  double loss_scale;
  Stored* mean_loss;
};

// A linear stage's input and gradient, [image][features].
template <class Compute>
struct LinearGrad {
  const Compute *input, *grad;
  Compute* partial;
  int64_t in_features, out_features, count;  // count: of weight and bias
  bool bias;
  int64_t splits, split_images, blocks;
};

template <class Compute>
struct LinearGrads {
  LinearGrad<Compute> stages[kMostStages];
  int32_t stage_count;
  int64_t batch;
};

template <class Stored>
void make_ready(const char* op, const ReadyParameters<Stored>& parameters);
template <class Stored>
void sum_gradients(const char* op, const SummedParameters<Stored>& parameters);

// Chooses the splits by sizes alone; `linear_grads` computes all stages in one launch.
template <class Compute>
void choose_splits(LinearGrad<Compute>& stage, int64_t batch);
template <class Compute>
void linear_grads(const char* op, const LinearGrads<Compute>& grads);

}  // namespace lenet_ext::cuda
