// What the fused engine runs: the layers of a description, given the sizes of images and parameters, in
// stages that kernels compute together. Nothing here knows torch.
#pragma once

#include <array>
#include <memory>

#include "engine/grouping.h"

namespace lenet_ext {

// conv2d, linear or nothing, then max_pool2d, then an activation, each of the last two if wanted. Shapes are
// those of one image.
struct Stage {
  enum class Core { kNone, kConv2d, kLinear };

  Core core = Core::kNone;
  Conv2dShape conv{};
  LinearShape linear{};
  bool pooled = false;
  MaxPool2dShape pool{};
  Activation activation = Activation::kNone;
  int weight = -1, bias = -1;                  // parameters, -1 where there is none
  int64_t weight_size = 0, bias_size = 0;      // elements
  int64_t input_size, core_size, output_size;  // elements of one image: in, after the core, out

  int64_t argmax_bytes() const { return pooled ? output_size * (pool.byte_argmax() ? 1 : 4) : 0; }
  // Up to whole words, since some are 32 bits wide.
  int64_t argmax_words() const { return (argmax_bytes() + 3) / 4 * 4; }
  int64_t parameter_count() const { return weight_size + bias_size; }
};

struct Network {
  std::string name;  // for errors
  std::vector<Stage> stages;
  SizeList image_sizes, output_sizes;  // of one image, without the batch
  SizeList parameter_sizes;            // elements of each parameter
  std::optional<Loss> loss;
  std::optional<Optimizer> optimizer;
  std::optional<double> max_grad_norm;

  int64_t image_size() const { return stages.front().input_size; }
  int64_t output_size() const { return stages.back().output_size; }

  // What backward needs of an image besides itself: the outputs of all stages, and the argmax of the pools.
  // Stage by stage these lie one after the other, those of all images of a stage together; here for the
  // stages before `stage`.
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
};

// Kept as long as plans refer to it; the same network is the same object.
using NetworkPtr = std::shared_ptr<const Network>;

// Makes a Network of a description, stage by stage.
class NetworkBuilder {
 public:
  // image_sizes: (N, C, H, W) or (N, features). parameter_sizes: of each parameter.
  NetworkBuilder(const Description& description, Sizes image_sizes, const std::vector<Sizes>& parameter_sizes)
      : d_(description), parameter_sizes_(parameter_sizes), used_(parameter_sizes.size()) {
    if (image_sizes.size() != 4 && image_sizes.size() != 2) {
      fail(d_.name, ": input must be (N, C, H, W) or (N, features), got ", to_string(image_sizes));
    }
    element_count(op(), image_sizes);
    net_.name = d_.name, net_.loss = d_.loss, net_.optimizer = d_.optimizer;
    net_.max_grad_norm = d_.max_grad_norm;
    sizes_.assign(image_sizes.begin() + 1, image_sizes.end());
    net_.image_sizes = sizes_;
  }

  Network build() {
    const std::vector<StageLayers> stages = group_layers(d_);
    int last = -1;  // of the stage at hand
    for (int i = 0; i < static_cast<int>(d_.nodes.size()); ++i) {
      const Node& node = d_.nodes[i];
      at_ = d_.name + (node.label.empty() ? "" : ": layer \"" + node.label + "\"");
      if (i > last && node.role != LayerRole::kNone) {
        last = stages[net_.stages.size()].last;
        begin_stage();
      }
      add(node);
    }
    for (size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) fail(d_.name, ": parameter ", i, " of ", used_.size(), " is not used");
      net_.parameter_sizes.push_back(element_count(op(), parameter_sizes_[i]));
    }
    net_.output_sizes = sizes_;
    return std::move(net_);
  }

 private:
  const char* op() const { return d_.name.c_str(); }
  int64_t elements() const { return element_count(op(), sizes_); }
  SizeList one_image() const {
    SizeList sizes = {1};
    sizes.insert(sizes.end(), sizes_.begin(), sizes_.end());
    return sizes;
  }
  Stage& stage() { return net_.stages.back(); }
  void begin_stage() {
    const int64_t size = elements();
    net_.stages.push_back(Stage{.input_size = size, .core_size = size, .output_size = size});
  }
  void need_images(const char* layer) const {
    if (sizes_.size() != 3) fail(at_, ": ", layer, " needs images (N, C, H, W)");
  }

  int take(int64_t parameter) {
    if (parameter < 0 || parameter >= static_cast<int64_t>(used_.size())) {
      fail(at_, ": program needs more than the ", used_.size(), " parameters given");
    }
    if (used_[parameter]) fail(at_, ": parameter ", parameter, " is used twice");
    used_[parameter] = true;
    return static_cast<int>(parameter);
  }

  void add(const Node& node) {
    switch (node.kind) {
      case LayerKind::kConv2d:
        return add_conv2d(node);
      case LayerKind::kLinear:
        return add_linear(node);
      case LayerKind::kMaxPool2d:
        return add_max_pool2d(node);
      case LayerKind::kActivation:
        stage().activation = node.activation;
        return;
      case LayerKind::kFlatten:
        sizes_ = {elements()};
    }
  }

  void add_conv2d(const Node& node) {
    const SizeList& n = node.numbers;
    need_images("conv2d");
    Stage& s = stage();
    s.core = Stage::Core::kConv2d, s.weight = take(node.parameters[0]);
    s.conv = conv2d_shape(at_.c_str(), one_image(), parameter_sizes_[s.weight],
                          {.stride_h = n[0],
                           .stride_w = n[1],
                           .pad_top = n[2],
                           .pad_bottom = n[3],
                           .pad_left = n[4],
                           .pad_right = n[5],
                           .dilation_h = n[6],
                           .dilation_w = n[7],
                           .groups = n[8]});
    finish_core(node, {s.conv.out_channels, s.conv.out_height, s.conv.out_width});
  }

  void add_linear(const Node& node) {
    Stage& s = stage();
    s.core = Stage::Core::kLinear, s.weight = take(node.parameters[0]);
    s.linear = linear_shape(at_.c_str(), "input", std::array{int64_t{1}, s.input_size},
                            parameter_sizes_[s.weight], Side::kInput);
    finish_core(node, {s.linear.out_features});
  }

  // sizes: what the layer gives of an image.
  void finish_core(const Node& node, SizeList sizes) {
    Stage& s = stage();
    s.weight_size = element_count(at_.c_str(), parameter_sizes_[s.weight]);
    if (s.weight_size == 0) fail(at_, ": the weight has no element");
    if (node.parameters.size() > 1) {
      s.bias = take(node.parameters[1]), s.bias_size = sizes[0];
      const Sizes bias = parameter_sizes_[s.bias];
      if (bias.size() != 1 || bias[0] != s.bias_size) {
        fail(at_, ": bias must have the sizes ", to_string(std::array{s.bias_size}), ", got ",
             to_string(bias));
      }
    }
    sizes_ = std::move(sizes);
    s.core_size = s.output_size = elements();
  }

  void add_max_pool2d(const Node& node) {
    constexpr size_t kCeilMode = 8;
    const int64_t ceil_mode = node.numbers[kCeilMode];
    need_images("max_pool2d");
    if (ceil_mode != 0 && ceil_mode != 1) fail(at_, ": ceil_mode must be 0 or 1, got ", ceil_mode);
    Stage& s = stage();
    s.pooled = true;
    s.pool = max_pool2d_shape(at_.c_str(), one_image(), max_pool2d_parameters(node), ceil_mode == 1);
    sizes_ = {s.pool.channels, s.pool.out_height, s.pool.out_width};
    s.output_size = elements();
  }

  const Description& d_;
  const std::vector<Sizes>& parameter_sizes_;
  std::vector<bool> used_;
  Network net_;
  SizeList sizes_;  // of the last result, without the batch
  std::string at_;  // the layer at hand, for errors
};

// What a network keeps of an image for backward, stage by stage, without its sizes: which value, and the
// bytes of an element of its argmax.
inline std::vector<std::pair<int, int>> kept_values(const std::string& program) {
  const Description description = DescriptionReader(program).read();
  std::vector<std::pair<int, int>> kept;
  for (const StageLayers& stage : group_layers(description)) {
    if (stage.pool < 0) {
      kept.emplace_back(stage.last + 1, 0);
    } else {
      const MaxPool2dParameters p = max_pool2d_parameters(description.nodes[stage.pool]);
      kept.emplace_back(stage.last + 1, p.byte_argmax() ? 1 : 4);
    }
  }
  return kept;
}

}  // namespace lenet_ext
