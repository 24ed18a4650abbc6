// The chain of stages that the fused engine runs, decoded from the integers of its operators and checked.
// Nothing here knows torch.
#pragma once

#include <algorithm>
#include <vector>

#include "shapes.h"

namespace lenet_ext {

using SizeList = std::vector<int64_t>;

// One stage: conv2d, linear or nothing, then relu, then max_pool2d, each of the last two if wanted. (relu and
// max-pool commute: a chain with the pool first is the same stage.) Shapes are those of one image.
struct StageShape {
  enum class Core : int64_t { kNone, kConv2d, kLinear };

  Core core;
  bool bias, relu, pooled, flattened;
  Conv2dShape conv;
  LinearShape linear;
  MaxPool2dShape pool;
  int64_t input_size, core_size, output_size;  // elements of one image: in, after the core, out
  int64_t weight_size, bias_size;              // elements, 0 where there is none

  int64_t tap_bytes() const { return pooled ? output_size * (pool.byte_taps() ? 1 : 4) : 0; }
  int64_t parameter_count() const { return weight_size + bias_size; }
  bool operator==(const StageShape&) const = default;
};

struct NetShape {
  std::vector<StageShape> stages;
  SizeList image_sizes, output_sizes;  // of one image, without the batch
  int64_t batch;

  bool operator==(const NetShape&) const = default;

  int64_t parameter_count() const {
    int64_t count = 0;
    for (const StageShape& stage : stages) count += stage.parameter_count();
    return count;
  }
  // What backward needs besides the input: the outputs of all stages, and the taps of the pools.
  int64_t saved_elements() const {
    int64_t count = 0;
    for (const StageShape& stage : stages) count += stage.output_size;
    return count;
  }
  // Where the taps of a stage lie for so many images; those of all stages if it is the number of stages.
  // Rounded to whole words: some taps are 32 bits wide.
  int64_t tap_offset(size_t stage, int64_t images) const {
    int64_t offset = 0;
    for (size_t i = 0; i < stage; ++i) offset += (stages[i].tap_bytes() * images + 3) / 4 * 4;
    return offset;
  }
};

// Reads a program from front to back.
class Program {
 public:
  Program(const char* op, const SizeList& values) : op_(op), values_(values) {}

  bool at_end() const { return next_ == values_.size(); }
  int64_t take() {
    if (at_end()) fail(op_, ": program ends within a stage");
    return values_[next_++];
  }
  bool flag() {
    const int64_t value = take();
    if (value != 0 && value != 1) fail(op_, ": program has ", value, " where a flag (0 or 1) belongs");
    return value == 1;
  }

 private:
  const char* op_;
  const SizeList& values_;
  size_t next_ = 0;
};

// input_sizes (N, C, H, W) or (N, features); parameter_sizes: weight and, where the stage has one, bias of
// every stage in order. program, per stage: core (0 none, 1 conv2d, 2 linear), bias, relu, pooled, flattened;
// for conv2d stride (2), padding (4), dilation (2), groups; if pooled kernel_size, stride, padding, dilation
// (2 each), ceil_mode.
inline NetShape net_shape(const char* op, Sizes input_sizes, const std::vector<Sizes>& parameter_sizes,
                          const SizeList& program) {
  using Core = StageShape::Core;
  if (input_sizes.size() != 4 && input_sizes.size() != 2) {
    fail(op, ": input must be (N, C, H, W) or (N, features), got ", to_string(input_sizes));
  }
  element_count(op, input_sizes);
  NetShape net;
  net.batch = input_sizes[0];
  SizeList sizes = net.image_sizes = SizeList(input_sizes.begin() + 1, input_sizes.end());
  const auto elements = [&] { return element_count(op, sizes); };
  const auto batched = [&] {
    SizeList one = {1};
    one.insert(one.end(), sizes.begin(), sizes.end());
    return one;
  };
  Program reader(op, program);
  size_t parameter = 0;
  const auto next_parameter = [&] {
    if (parameter == parameter_sizes.size()) {
      fail(op, ": program needs more than the ", parameter, " parameters given");
    }
    return parameter_sizes[parameter++];
  };
  while (!reader.at_end()) {
    const std::string name = std::string(op) + ": stage " + std::to_string(net.stages.size());
    StageShape s{};
    const int64_t core = reader.take();
    if (core < 0 || core > 2) fail(name, ": unknown core ", core);
    s.core = static_cast<Core>(core);
    s.bias = reader.flag(), s.relu = reader.flag(), s.pooled = reader.flag(), s.flattened = reader.flag();
    s.input_size = elements();
    if (s.core == Core::kNone && s.bias) fail(name, ": a bias needs a conv2d or linear core");
    if (s.core == Core::kConv2d) {
      Conv2dParameters p{};
      for (int64_t* value : {&p.stride_h, &p.stride_w, &p.pad_top, &p.pad_bottom, &p.pad_left, &p.pad_right,
                             &p.dilation_h, &p.dilation_w, &p.groups}) {
        *value = reader.take();
      }
      if (sizes.size() != 3) fail(name, ": conv2d needs images (N, C, H, W)");
      const Sizes weight = next_parameter();
      s.conv = conv2d_shape(name.c_str(), batched(), weight, p);
      s.weight_size = element_count(op, weight), s.bias_size = s.bias ? s.conv.out_channels : 0;
      sizes = {s.conv.out_channels, s.conv.out_height, s.conv.out_width};
    } else if (s.core == Core::kLinear) {
      const Sizes weight = next_parameter();
      s.linear =
          linear_shape(name.c_str(), "input", std::array{int64_t{1}, s.input_size}, weight, Side::kInput);
      s.weight_size = element_count(op, weight), s.bias_size = s.bias ? s.linear.out_features : 0;
      sizes = {s.linear.out_features};
    }
    if (s.core != Core::kNone && s.weight_size == 0) fail(name, ": the weight has no element");
    if (s.bias) {
      const Sizes bias = next_parameter();
      if (bias.size() != 1 || bias[0] != s.bias_size) {
        fail(name, ": bias must have the sizes ", to_string(std::array{s.bias_size}), ", got ",
             to_string(bias));
      }
    }
    s.core_size = elements();
    if (s.pooled) {
      MaxPool2dParameters p{};
      for (int64_t* value : {&p.kernel_height, &p.kernel_width, &p.stride_h, &p.stride_w, &p.pad_h, &p.pad_w,
                             &p.dilation_h, &p.dilation_w}) {
        *value = reader.take();
      }
      const bool ceil_mode = reader.flag();
      if (sizes.size() != 3) fail(name, ": max_pool2d needs images (N, C, H, W)");
      s.pool = max_pool2d_shape(name.c_str(), batched(), p, ceil_mode);
      sizes = {s.pool.channels, s.pool.out_height, s.pool.out_width};
    }
    s.output_size = elements();
    if (s.flattened) sizes = {s.output_size};
    net.stages.push_back(s);
  }
  if (net.stages.empty()) fail(op, ": program has no stage");
  if (parameter != parameter_sizes.size()) {
    fail(op, ": program uses ", parameter, " of the ", parameter_sizes.size(), " parameters given");
  }
  net.output_sizes = sizes;
  for (const StageShape& stage : net.stages) {
    element_count(op, std::array{std::max<int64_t>(net.batch, 1), stage.core_size});
  }
  return net;
}

}  // namespace lenet_ext
