// The parameters of the fused engine, one launch for those of all stages: weights made ready for a pass, and
// after it gradients summed in a fixed order, as they are or as the steps of an optimizer.
#pragma once

#include <cmath>

#include "cuda/common/launch.cuh"
#include "cuda/common/number.cuh"
#include "cuda/engine/optimizer.cuh"
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

// The order of images, which a step must not follow where it is out of range.
struct IndexCheck {
  const int64_t* indices;  // or null
  int64_t count, size;     // each must be in [0, size)
};

// Class targets, `positions` of each image, which must be classes as well; and what a loss is divided by.
struct TargetCheck {
  const int64_t* targets;  // or null
  int64_t positions, classes, ignored;
  const void* weight;  // of the classes, or null
  DType dtype;
  double* divisor;
  double known_divisor;  // 0 if it is the weights of the targets
};

// What begins a step of the optimizer: TrainPass::options and ::steps, of which the rows are made.
struct BeginStep {
  Optimizer optimizer;
  const double* options;
  int64_t option_count, parameters;
  float* steps;
  StepRow* rows;
};

template <class Stored>
struct ReadyParameters {
  ReadyStage<Stored> stages[kMostStages];
  int32_t stage_count;
  IndexCheck order;
  TargetCheck targets;  // of the images in this order
  int32_t* bad;         // becomes whether an index is out of range; or null
  BeginStep step;       // if none is
};

// Where the gradient of a parameter goes: as it is, or as a step of the optimizer that changes the parameter.
template <class Stored>
struct SummedParameter {
  Stored* values;
  // For training: the parameter's row, and the tensors of the optimizer's state, or nulls.
  int32_t row;
  Stored* state[kMostStates];
};

// After a pass: the sums of a stage's partial gradients, [slice][weight and bias].
template <class Stored>
struct SummedStage {
  const ComputeType<Stored>* partial;
  int64_t slices, count, weight_count;
  SummedParameter<Stored> weight, bias;
};

template <class Stored>
struct SummedParameters {
  SummedStage<Stored> stages[kMostStages];
  int32_t stage_count;
  // For training:
  bool trains;
  Optimizer optimizer;
  const StepRow* rows;
  const int32_t* bad;
  const ComputeType<Stored>* losses;
  int64_t batch;
  const double* loss_divisor;
  Stored* batch_loss;
};

// Element `i` of `ready`: [group][channel in][tap][channel out, padded].
template <class Stored>
__device__ ComputeType<Stored> forward_weight(const ReadyStage<Stored>& s, int64_t i) {
  const Division out = divide(i, int64_t{s.weight_stride}), tap = divide(out.quotient, int64_t{s.taps});
  const Division in = divide(tap.quotient, int64_t{s.group_in});
  if (out.remainder >= s.group_out) return 0;
  const int64_t row = (in.quotient * s.group_out + out.remainder) * s.group_in + in.remainder;
  return widen(s.weight[row * s.taps + tap.remainder]);
}

// Element `i` of `ready_back`: [group][channel out][tap][channel in, padded].
template <class Stored>
__device__ ComputeType<Stored> backward_weight(const ReadyStage<Stored>& s, int64_t i) {
  const Division in = divide(i, int64_t{s.back_stride}), tap = divide(in.quotient, int64_t{s.taps});
  if (in.remainder >= s.group_in) return 0;
  return widen(s.weight[(tap.quotient * s.group_in + in.remainder) * s.taps + tap.remainder]);
}

template <class Stored>
__global__ __launch_bounds__(kElementThreads) void ready_elements(
    const __grid_constant__ ReadyParameters<Stored> parameters) {
  int64_t i = element_index();
  for (int32_t stage = 0; stage < parameters.stage_count; ++stage) {
    const ReadyStage<Stored>& s = parameters.stages[stage];
    if (i < s.ready_count) {
      s.ready[i] = s.is_conv2d ? forward_weight(s, i) : widen(s.weight[i]);
      return;
    }
    i -= s.ready_count;
    if (i < s.back_count) {
      s.ready_back[i] = backward_weight(s, i);
      return;
    }
    i -= s.back_count;
    if (i < s.bias_count) {
      s.ready_bias[i] = widen(s.bias[i]);
      return;
    }
    i -= s.bias_count;
  }
}

// The sum over the threads of a block, in the same order always; the first thread gets it.
__device__ inline double sum_of_block(double value) {
  __shared__ double sums[kElementThreads];
  sums[threadIdx.x] = value;
  for (unsigned distance = kElementThreads / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (threadIdx.x < distance) sums[threadIdx.x] += sums[threadIdx.x + distance];
  }
  return threadIdx.x == 0 ? sums[0] : 0;
}

// One block: whether any index is out of range, and what the loss is divided by; if none is, the step begins.
template <class Compute>
__global__ __launch_bounds__(kElementThreads) void look_at_targets(IndexCheck order, TargetCheck check,
                                                                   int32_t* bad, BeginStep step) {
  __shared__ int32_t found;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  const int64_t positions = check.targets != nullptr ? check.positions : 1;
  double weights = 0;
  for (int64_t i = threadIdx.x; i < order.count * positions; i += kElementThreads) {
    const Division place = divide(i, positions);
    const int64_t image = order.indices != nullptr ? order.indices[place.quotient] : place.quotient;
    if (image < 0 || image >= order.size) {
      found = 1;
    } else if (check.targets != nullptr) {
      const int64_t target = check.targets[image * positions + place.remainder];
      if (target == check.ignored) continue;
      if (target < 0 || target >= check.classes) {
        found = 1;
      } else {
        weights += check.weight == nullptr ? 1 : load_stored<Compute>(check.weight, check.dtype, target);
      }
    }
  }
  weights = sum_of_block(weights);
  __syncthreads();
  if (threadIdx.x == 0) {
    *bad = found;
    *check.divisor = check.known_divisor != 0 ? check.known_divisor : weights;
  }
  if (found) return;
  for (int64_t i = threadIdx.x; i < step.parameters; i += kElementThreads) {
    begin_step(step.optimizer, step.options + i * (1 + step.option_count), step.option_count,
               step.steps == nullptr ? nullptr : step.steps + i, step.rows + i);
  }
}

constexpr int kSumLanes = 32;                            // neighbouring parameters of a block
constexpr int kSumGroups = kElementThreads / kSumLanes;  // that share the slices of one

// By one block. A step that was not taken has no loss.
template <class Stored>
__device__ void write_loss(const SummedParameters<Stored>& p) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.batch; i += kElementThreads) sum += p.losses[i];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) {
    const double loss = *p.bad != 0 ? NAN : sum / *p.loss_divisor;
    *p.batch_loss = narrow<Stored>(static_cast<ComputeType<Stored>>(loss));
  }
}

// A block for kSumLanes parameters of a stage, and one for the loss.
template <class Stored>
__global__ __launch_bounds__(kElementThreads) void sum_slices(
    const __grid_constant__ SummedParameters<Stored> p) {
  using Compute = ComputeType<Stored>;
  __shared__ Compute sums[kSumGroups][kSumLanes];
  int64_t block = blockIdx.x;
  int32_t stage = 0;
  for (; stage < p.stage_count; ++stage) {
    const int64_t blocks = divide_up(p.stages[stage].count, kSumLanes);
    if (block < blocks) break;
    block -= blocks;
  }
  if (stage == p.stage_count) {
    write_loss(p);
    return;
  }
  const SummedStage<Stored>& s = p.stages[stage];
  const int lane = threadIdx.x % kSumLanes, group = threadIdx.x / kSumLanes;
  const int64_t i = block * kSumLanes + lane;
  Compute sum = 0;
  if (i < s.count) {
#pragma unroll 4
    for (int64_t slice = group; slice < s.slices; slice += kSumGroups) sum += s.partial[slice * s.count + i];
  }
  sums[group][lane] = sum;
  __syncthreads();
  if (group != 0 || i >= s.count) return;
  Compute total = 0;
#pragma unroll
  for (int k = 0; k < kSumGroups; ++k) total += sums[k][lane];
  const bool is_weight = i < s.weight_count;
  const SummedParameter<Stored>& parameter = is_weight ? s.weight : s.bias;
  const int64_t place = is_weight ? i : i - s.weight_count;
  if (!p.trains) {
    parameter.values[place] = narrow<Stored>(total);
  } else if (*p.bad == 0 && p.rows[parameter.row].trained != 0) {
    StateElement<Stored> state[kMostStates];
#pragma unroll
    for (size_t k = 0; k < kMostStates; ++k) {
      state[k].place = parameter.state[k] != nullptr ? parameter.state[k] + place : nullptr;
    }
    optimizer_step(p.optimizer, p.rows[parameter.row], total, parameter.values + place, state);
  }
}

template <class Stored>
void make_ready(const char* op, const ReadyParameters<Stored>& p) {
  int64_t count = 0;
  for (int32_t i = 0; i < p.stage_count; ++i) {
    const ReadyStage<Stored>& s = p.stages[i];
    count += s.ready_count + s.back_count + s.bias_count;
  }
  launch_elements(op, count, &ready_elements<Stored>, p);
  if (p.bad != nullptr) {
    launch(op, 1, kElementThreads, &look_at_targets<ComputeType<Stored>>, p.order, p.targets, p.bad, p.step);
  }
}

template <class Stored>
void sum_gradients(const char* op, const SummedParameters<Stored>& p) {
  int64_t blocks = p.trains;
  for (int32_t i = 0; i < p.stage_count; ++i) blocks += divide_up(p.stages[i].count, kSumLanes);
  launch(op, blocks, kElementThreads, &sum_slices<Stored>, p);
}

}  // namespace lenet_ext::cuda
