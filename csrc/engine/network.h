// What the fused engine runs: the layers of a description, given the sizes of images and parameters, in
// stages that kernels compute together. Nothing here knows torch.
#pragma once

#include <algorithm>
#include <memory>

#include "engine/grouping.h"

namespace lenet_ext {

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
  bool pooled = false;
  MaxPool2dShape pool{};
  ActivationCall activation{};
  SizeList trained{};                      // parameters with a gradient: running statistics have none
  int weight = -1, bias = -1;              // parameters, -1 where there is none
  int64_t weight_size = 0, bias_size = 0;  // elements
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
  SizeList image_sizes;                // of one image, without the batch
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

  // Of each value, whether a gradient is wanted of it: where a parameter for which is_wanted(parameter) has a
  // part in it, or for the images, if their gradient is wanted.
  template <class IsWanted>
  std::vector<bool> values_with_gradients(bool of_images, const IsWanted& is_wanted) const {
    std::vector<bool> wanted = {of_images};
    for (const Stage& stage : stages) {
      const bool own = std::ranges::any_of(stage.trained, is_wanted);
      wanted.push_back(own || std::ranges::any_of(stage.inputs, [&](int value) { return wanted[value]; }));
    }
    return wanted;
  }

  int64_t image_elements = 0;
};

// Kept as long as plans refer to it; the same network is the same object.
using NetworkPtr = std::shared_ptr<const Network>;

}  // namespace lenet_ext
