// What the fused engine runs: the layers of a description, given the sizes of images and parameters, in
// stages that kernels compute together. Nothing here knows torch.
#pragma once

#include <algorithm>
#include <memory>

#include "engine/grouping.h"

namespace lenet_ext {

// Parameters of a batch_norm; -1 where there is none. The running ones: where they are the statistics.
struct BatchNormParameters {
  int weight = -1, bias = -1, running_mean = -1, running_variance = -1;

  static BatchNormParameters of(const Node& node) {
    const auto number = [&](size_t i) { return static_cast<int>(node.parameters[i]); };
    const bool affine = node.numbers[1] != 0;
    BatchNormParameters p;
    if (affine) p.weight = number(0), p.bias = number(1);
    if (node.numbers[0] == 0)
      p.running_mean = number(2 * affine), p.running_variance = number(2 * affine + 1);
    return p;
  }
  bool uses_batch_statistics() const { return running_mean < 0; }
};

// A batch_norm that is part of the core before it.
struct FoldedNorm {
  BatchNormParameters parameters;
  double eps;
};

// A core (nothing, conv2d, linear or another layer), then max_pool2d, then an activation, each of the last two
// if wanted. Shapes and sizes are those of one image.
struct Stage {
  using Core = LayerKind;

  Core core = Core::kNone;
  Node layer{};                       // of the core
  int number = 0;                     // of the first layer in the description
  std::string name;                   // of that layer, for errors
  std::vector<int> inputs;            // values: 0 is the images, i the result of stage i - 1
  std::vector<SizeList> input_sizes;  // of each
  SizeList core_sizes{};              // of what the core gives
  Conv2dShape conv{};                 // of conv2d; of conv_transpose2d, that whose input gradient it is
  LinearShape linear{};
  std::optional<FoldedNorm> norm{};
  bool pooled = false;
  MaxPool2dShape pool{};
  ActivationCall activation{};
  std::vector<SizeList> parameter_sizes{};  // of the core's parameters
  SizeList trained{};                       // parameters with a gradient: running statistics have none
  int weight = -1, bias = -1;               // parameters, -1 where there is none
  int64_t weight_size = 0, bias_size = 0;   // elements
  // Elements of one image: in (of the first), after the core, out.
  int64_t input_size = 0, core_size = 0, output_size = 0;

  int64_t argmax_bytes() const {
    if (pooled) return output_size * (pool.byte_argmax() ? 1 : 4);
    return core == Core::kAdaptiveMaxPool2d ? 4 * output_size : 0;
  }
  // Up to whole words, since some are 32 bits wide.
  int64_t argmax_words() const { return (argmax_bytes() + 3) / 4 * 4; }
  int64_t parameter_count() const { return weight_size + bias_size; }

  // Whether it normalizes by the statistics of the whole batch, which must be known before.
  bool needs_statistics() const { return core == Core::kBatchNorm && layer.numbers[0] != 0; }
  int64_t channels() const { return input_sizes[0].empty() ? 1 : input_sizes[0][0]; }
  // Elements of an image that backward leaves where the gradient of the input follows from the whole batch.
  int64_t batch_gradient_size() const { return pooled ? output_size : input_size; }
  // Of each channel: BatchNormShape::statistics_size().
  int64_t statistics_size() const { return needs_statistics() ? 4 * channels() : 0; }
};

struct NetworkOutput {
  int value;  // as stages count them
  SizeList sizes;
};

struct Network {
  std::string name;  // for errors
  std::vector<Stage> stages;
  std::vector<NetworkOutput> outputs;
  SizeList image_sizes;  // of one image, without the batch
  int64_t image_elements = 0;
  SizeList parameter_sizes;            // elements of each parameter
  std::vector<int> parameter_readers;  // how many layers read each as a parameter with a gradient
  std::optional<Loss> loss;
  std::optional<Optimizer> optimizer;
  std::optional<double> max_grad_norm;

  int64_t image_size() const { return value_size(0); }
  // Of the first output, which the loss is about.
  const SizeList& output_sizes() const { return outputs[0].sizes; }
  int64_t output_size() const { return value_size(outputs[0].value); }
  int64_t value_size(int value) const { return value == 0 ? image_elements : stages[value - 1].output_size; }
  // How often a value is read, or returned.
  int readers(int value) const {
    int64_t count = std::ranges::count(outputs, value, &NetworkOutput::value);
    for (const Stage& stage : stages) count += std::ranges::count(stage.inputs, value);
    return static_cast<int>(count);
  }
  bool has_dropout() const {
    return std::ranges::any_of(stages, [](const Stage& s) { return s.core == LayerKind::kDropout; });
  }

  // What backward needs of an image besides itself: the outputs of all stages, and what pools leave. Stage by
  // stage these lie one after the other, those of all images of a stage together; here for the stages before
  // `stage`. Behind the values are the statistics of all stages.
  int64_t values_before(size_t stage) const {
    int64_t count = 0;
    for (size_t i = 0; i < stage; ++i) count += stages[i].output_size;
    return count;
  }
  int64_t argmax_before(size_t stage) const {
    int64_t bytes = 0;
    for (size_t i = 0; i < stage; ++i) bytes += stages[i].argmax_words();
    return bytes;
  }
  int64_t statistics_before(size_t stage) const {
    int64_t count = 0;
    for (size_t i = 0; i < stage; ++i) count += stages[i].statistics_size();
    return count;
  }
  int64_t saved_size(int64_t batch) const {
    return batch * values_before(stages.size()) + statistics_before(stages.size());
  }

  // Whether a gradient is wanted of the value that `stage` gives: where a parameter for which
  // is_wanted(parameter) has a part in it, or a value whose gradient is wanted, reads_wanted(value).
  template <class IsWanted, class ReadsWanted>
  bool gradient_wanted(size_t stage, const IsWanted& is_wanted, const ReadsWanted& reads_wanted) const {
    return std::ranges::any_of(stages[stage].trained, is_wanted) ||
           std::ranges::any_of(stages[stage].inputs, reads_wanted);
  }
};

// Kept as long as plans refer to it; the same network is the same object.
using NetworkPtr = std::shared_ptr<const Network>;

}  // namespace lenet_ext
