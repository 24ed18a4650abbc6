// Makes a Network of a description, given the sizes of images and parameters.
#pragma once

#include "engine/broadcast.h"
#include "engine/layer_sizes.h"
#include "engine/network.h"

namespace lenet_ext {

class NetworkBuilder {
 public:
  // image_sizes: (N, ...). parameter_sizes: of each parameter. value_sizes: see Grouping.
  NetworkBuilder(const Description& description, Sizes image_sizes, const std::vector<Sizes>& parameter_sizes,
                 const std::vector<SizeList>* value_sizes = nullptr)
      : d_(description), parameter_sizes_(parameter_sizes), groups_(description, value_sizes) {
    if (image_sizes.size() < 2) {
      fail(d_.name, ": input must be (N, C, H, W), (N, features) or have 2 dimensions at least, got ",
           to_string(image_sizes));
    }
    element_count(op(), image_sizes);
    net_.name = d_.name, net_.loss = d_.loss, net_.optimizer = d_.optimizer;
    net_.max_grad_norm = d_.max_grad_norm;
    net_.image_sizes.assign(image_sizes.begin() + 1, image_sizes.end());
    net_.image_elements = element_count(op(), net_.image_sizes);
    sizes_ = {net_.image_sizes};
    net_.parameter_readers.resize(parameter_sizes.size());
  }

  Network build() {
    for (size_t i = 0; i < parameter_sizes_.size(); ++i) {
      net_.parameter_sizes.push_back(element_count(op(), parameter_sizes_[i]));
    }
    for (int i = 0; i < static_cast<int>(d_.nodes.size()); ++i) {
      const Node& node = d_.nodes[i];
      at_ = d_.name + (node.label.empty() ? "" : ": layer \"" + node.label + "\"");
      inputs_.clear();
      for (int64_t value : node.values) inputs_.push_back(sizes_[value]);
      const int number = groups_.stage_of(i);
      if (number >= 0 && groups_.stages()[number].first == i) begin_stage(i, groups_.stages()[number]);
      sizes_.push_back(add(node, number));
      if (number >= 0) stage(number).output_size = element_count(op(), sizes_.back());
    }
    for (int64_t value : d_.outputs) {
      net_.outputs.push_back({groups_.value_of_stages(value), sizes_[value]});
      if (net_.outputs.back().value == 0) fail(d_.name, ": the images themselves are returned");
    }
    for (Stage& s : net_.stages) {
      s.trained = s.layer.parameters;
      if (s.core == LayerKind::kBatchNorm) s.trained.resize(s.layer.numbers[1] != 0 ? 2 : 0);
      for (int64_t parameter : s.trained) ++net_.parameter_readers[parameter];
    }
    return std::move(net_);
  }
  // Of all values, once built.
  const std::vector<SizeList>& value_sizes() const { return sizes_; }

 private:
  const char* op() const { return d_.name.c_str(); }
  Stage& stage(int number) { return net_.stages[number]; }
  // Whether a layer of the stage is its core, and not what follows one.
  bool is_core(const Node& node, int number) const {
    const int core = groups_.stages()[number].core;
    return core >= 0 && &node == &d_.nodes[core];
  }

  void begin_stage(int layer, const StageLayers& layers) {
    Stage s{.number = layer, .name = at_, .inputs = layers.inputs, .input_sizes = inputs_};
    s.input_size = s.core_size = s.output_size = element_count(op(), inputs_[0]);
    s.core_sizes = inputs_[0];
    net_.stages.push_back(std::move(s));
  }

  // (1, ...): one image.
  SizeList one_image() const {
    SizeList sizes = {1};
    sizes.insert(sizes.end(), inputs_[0].begin(), inputs_[0].end());
    return sizes;
  }
  void need_images(const char* layer) const {
    if (inputs_[0].size() != 3) fail(at_, ": ", layer, " needs images (N, C, H, W)");
  }

  // The sizes of a parameter. Those of a convolution in one dimension are as of height 1.
  SizeList parameter(int64_t number) const {
    if (number < 0 || number >= static_cast<int64_t>(parameter_sizes_.size())) {
      fail(at_, ": program needs more than the ", parameter_sizes_.size(), " parameters given");
    }
    return {parameter_sizes_[number].begin(), parameter_sizes_[number].end()};
  }
  SizeList weight_of_images(int64_t number) const {
    SizeList sizes = parameter(number);
    return sizes.size() == 3 ? SizeList{sizes[0], sizes[1], 1, sizes[2]} : sizes;
  }

  // Adds a layer to its stage; the sizes that it gives.
  SizeList add(const Node& node, int number) {
    switch (node.kind) {
      case LayerKind::kConv2d:
        return add_conv2d(node, stage(number));
      case LayerKind::kConvTranspose2d:
        return add_conv_transpose2d(node, stage(number));
      case LayerKind::kLinear:
        return add_linear(node, stage(number));
      case LayerKind::kMaxPool2d:
        return add_max_pool2d(node, stage(number));
      case LayerKind::kActivation:
        if (is_core(node, number)) break;
        stage(number).activation = activation_of(node);
        return inputs_[0];
      case LayerKind::kBatchNorm:
        if (groups_.stages()[number].norm < 0) break;
        for (int64_t parameter_number : node.parameters) {
          check_parameter_of(node, parameter(parameter_number));
        }
        check_batch_norm(node);
        stage(number).norm = {BatchNormParameters::of(node), node.reals[0]};
        return inputs_[0];
      case LayerKind::kFlatten:
      case LayerKind::kReshape:
        return LayerSizes(at_, node, inputs_).of();
      default:
        break;
    }
    return add_other(node, stage(number));
  }

  SizeList add_conv2d(const Node& node, Stage& s) {
    const SizeList& n = node.numbers;
    need_images("conv2d");
    s.conv = conv2d_shape(at_.c_str(), one_image(), weight_of_images(node.parameters[0]),
                          {.stride_h = n[0],
                           .stride_w = n[1],
                           .pad_top = n[2],
                           .pad_bottom = n[3],
                           .pad_left = n[4],
                           .pad_right = n[5],
                           .dilation_h = n[6],
                           .dilation_w = n[7],
                           .groups = n[8]});
    return finish_core(node, s, {s.conv.out_channels, s.conv.out_height, s.conv.out_width}, 0);
  }

  // It is the gradient of a convolution of the images that it gives.
  SizeList add_conv_transpose2d(const Node& node, Stage& s) {
    const SizeList &n = node.numbers, &in = inputs_[0], w = weight_of_images(node.parameters[0]);
    const char* const op = at_.c_str();
    need_images("conv_transpose2d");
    check_4d(op, "weight", w);
    if (n[8] < 1) fail(op, ": groups must be at least 1, got ", n[8]);
    SizeList image = {1, multiply_sizes(op, w[1], n[8])};
    for (size_t axis = 0; axis < 2; ++axis) {
      const int64_t stride = n[axis], pad = n[2 + axis], extra = n[4 + axis], dilation = n[6 + axis];
      check_parameter(op, "stride", stride, 1);
      check_parameter(op, "padding", pad, 0);
      check_parameter(op, "output_padding", extra, 0);
      check_parameter(op, "dilation", dilation, 1);
      if (extra >= std::max(stride, dilation)) {
        fail(op, ": output_padding ", extra, " must be smaller than stride or dilation");
      }
      const int64_t reach =
          multiply_sizes(op, stride, in[1 + axis] - 1) + multiply_sizes(op, dilation, w[2 + axis] - 1);
      image.push_back(reach - 2 * pad + extra + 1);
      if (image.back() < 1 || in[1 + axis] < 1) fail(op, ": the output would be empty");
    }
    s.conv = conv2d_shape(op, image, w,
                          {.stride_h = n[0],
                           .stride_w = n[1],
                           .pad_top = n[2],
                           .pad_bottom = n[2],
                           .pad_left = n[3],
                           .pad_right = n[3],
                           .dilation_h = n[6],
                           .dilation_w = n[7],
                           .groups = n[8]});
    if (in[0] != s.conv.out_channels) {
      fail(op, ": weight ", to_string(w), " does not fit images of ", to_string(in));
    }
    // An output padding beyond the stride has room for windows that are none.
    s.conv.out_height = in[1], s.conv.out_width = in[2];
    return finish_core(node, s, {image[1], image[2], image[3]}, 0);
  }

  SizeList add_linear(const Node& node, Stage& s) {
    const SizeList weight = parameter(node.parameters[0]), &in = inputs_[0];
    s.linear = linear_shape(at_.c_str(), "input", in, weight, Side::kInput);
    SizeList sizes = in;
    sizes.back() = s.linear.out_features;
    return finish_core(node, s, sizes, sizes.size() - 1);
  }

  // sizes: what the layer gives of an image. channel: the dimension that the bias is about.
  SizeList finish_core(const Node& node, Stage& s, SizeList sizes, size_t channel) {
    s.core = node.kind, s.layer = node, s.weight = static_cast<int>(node.parameters[0]);
    s.weight_size = net_.parameter_sizes[s.weight];
    if (s.weight_size == 0) fail(at_, ": the weight has no element");
    if (node.parameters.size() > 1) {
      s.bias = static_cast<int>(node.parameters[1]), s.bias_size = sizes[channel];
      const SizeList bias = parameter(node.parameters[1]);
      if (bias.size() != 1 || bias[0] != s.bias_size) {
        fail(at_, ": bias must have the sizes ", to_string(std::array{s.bias_size}), ", got ",
             to_string(bias));
      }
    }
    s.core_sizes = sizes;
    s.core_size = element_count(op(), sizes);
    return sizes;
  }

  SizeList add_max_pool2d(const Node& node, Stage& s) {
    constexpr size_t kCeilMode = 8;
    const int64_t ceil_mode = node.numbers[kCeilMode];
    need_images("max_pool2d");
    if (ceil_mode != 0 && ceil_mode != 1) fail(at_, ": ceil_mode must be 0 or 1, got ", ceil_mode);
    s.pooled = true;
    s.pool = max_pool2d_shape(at_.c_str(), one_image(), max_pool2d_parameters(node), ceil_mode == 1);
    return {s.pool.channels, s.pool.out_height, s.pool.out_width};
  }

  SizeList add_other(const Node& node, Stage& s) {
    s.core = node.kind, s.layer = node;
    s.core_sizes = LayerSizes(at_, node, inputs_).of();
    s.core_size = element_count(op(), s.core_sizes);
    for (int64_t number : node.parameters) {
      s.parameter_sizes.push_back(parameter(number));
      check_parameter_of(node, s.parameter_sizes.back());
    }
    if (node.kind == LayerKind::kPRelu) {
      s.weight = static_cast<int>(node.parameters[0]);
      s.weight_size = net_.parameter_sizes[s.weight];
    }
    if (node.kind == LayerKind::kBatchNorm) check_batch_norm(node);
    if (node.kind == LayerKind::kDropout && !(node.reals[0] >= 0 && node.reals[0] <= 1)) {
      fail(at_, ": p must be in [0, 1], got ", node.reals[0]);
    }
    return s.core_sizes;
  }

  // sizes: of a parameter of the layer at hand.
  void check_parameter_of(const Node& node, const SizeList& sizes) const {
    if (node.kind == LayerKind::kShift || node.kind == LayerKind::kGain) {
      broadcast(at_, inputs_[0], sizes);
      return;
    }
    SizeList wanted = {inputs_[0].empty() ? 1 : inputs_[0][0]};
    if (node.kind == LayerKind::kLayerNorm) {
      wanted.assign(inputs_[0].end() - node.numbers[0], inputs_[0].end());
    }
    const bool one_for_all = node.kind == LayerKind::kPRelu && sizes == SizeList{1};
    if (sizes != wanted && !one_for_all) {
      fail(at_, ": a parameter must have the sizes ", to_string(wanted), ", got ", to_string(sizes));
    }
  }

  void check_batch_norm(const Node& node) const {
    const bool batch = node.numbers[0] != 0, affine = node.numbers[1] != 0, tracked = node.numbers[2] != 0;
    const size_t wanted = (affine ? 2 : 0) + (tracked ? 2 : 0);
    if (node.parameters.size() != wanted || !(batch || tracked)) {
      fail(at_, ": batch_norm has a wrong number of parameters");
    }
  }

  const Description& d_;
  const std::vector<Sizes>& parameter_sizes_;
  const Grouping groups_;
  Network net_;
  std::vector<SizeList> sizes_;   // of all values so far
  std::vector<SizeList> inputs_;  // of the layer at hand
  std::string at_;                // the layer at hand, for errors
};

// folds: for passes that keep nothing for backward.
inline Network build_network(const Description& description, Sizes image_sizes,
                             const std::vector<Sizes>& parameter_sizes, bool folds) {
  NetworkBuilder builder(description, image_sizes, parameter_sizes);
  Network network = builder.build();
  const auto is_running = [](const Stage& s) {
    return s.core == LayerKind::kBatchNorm && !s.needs_statistics();
  };
  if (!folds || std::ranges::none_of(network.stages, is_running)) return network;
  return NetworkBuilder(description, image_sizes, parameter_sizes, &builder.value_sizes()).build();
}

}  // namespace lenet_ext
