// Which layers of a network make a stage, that kernels compute together: a core (conv2d, linear, ... or
// nothing), then max_pool2d, then an activation, each of the last two if wanted and nobody else reads what lies
// between. Where nothing is kept for backward, a batch_norm with running statistics is part of the core before it.
#pragma once

#include "engine/description.h"

namespace lenet_ext {

// The layers of a stage; -1 where there is none. first: the one that reads `inputs`, the values that other
// stages give: 0 is the images, i the result of stage i - 1.
struct StageLayers {
  int first = 0, core = -1, norm = -1, pool = -1, activation = -1;
  std::vector<int> inputs = {};
};

inline MaxPool2dParameters max_pool2d_parameters(const Node& node) {
  const SizeList& n = node.numbers;
  return {.kernel_height = n[0],
          .kernel_width = n[1],
          .stride_h = n[2],
          .stride_w = n[3],
          .pad_h = n[4],
          .pad_w = n[5],
          .dilation_h = n[6],
          .dilation_w = n[7]};
}

// Where an activation commutes with a pool, the pool goes first: the stage is the same for either order.
inline bool pool_may_go_first(const Node& activation, const Node& pool) {
  const MaxPool2dParameters p = max_pool2d_parameters(pool);
  // A window may lie in the padding alone: its maximum is -inf, which an activation must not change.
  const bool skips_pixels = (p.pad_h > 0 && p.dilation_h > 1) || (p.pad_w > 0 && p.dilation_w > 1);
  return commutes_with_max_pool(activation_of(activation)) && !skips_pixels;
}

// The layers of a description in stages.
class Grouping {
 public:
  // sizes: of all values, where batch norms are to be folded; else null.
  explicit Grouping(const Description& description, const std::vector<SizeList>* sizes = nullptr)
      : d_(description),
        sizes_(sizes),
        roots_(d_.nodes.size() + 1),
        readers_(d_.nodes.size() + 1),
        givers_(roots_.size(), -1) {
    count_readers();
    stage_of_.assign(d_.nodes.size(), -1);
    for (int i = 0; i < static_cast<int>(d_.nodes.size()); ++i) {
      if (d_.nodes[i].role == LayerRole::kAlias) continue;
      if (readers_[i + 1] == 0) fail(d_.name, ": nobody reads the result of layer ", i);
      if (!join(i)) begin(i);
    }
    if (stages_.empty()) fail(d_.name, ": the network has no layer that computes anything");
  }

  const std::vector<StageLayers>& stages() const { return stages_; }
  // The stage of layer i, -1 where that changes nothing in memory.
  int stage_of(int layer) const { return stage_of_[layer]; }
  // What is in memory for `value` of the description, as stages count values.
  int value_of_stages(int64_t value) const { return givers_[roots_[value]] + 1; }

 private:
  // Of a value, that whose memory it shares.
  void count_readers() {
    for (size_t i = 0; i < d_.nodes.size(); ++i) {
      const Node& node = d_.nodes[i];
      const bool alias = node.role == LayerRole::kAlias;
      roots_[i + 1] = alias ? roots_[node.values[0]] : static_cast<int>(i + 1);
      for (size_t k = 0; !alias && k < node.values.size(); ++k) ++readers_[roots_[node.values[k]]];
    }
    for (int64_t value : d_.outputs) ++readers_[roots_[value]];
  }

  bool join(int i) {
    const Node& node = d_.nodes[i];
    if (node.role == LayerRole::kCore && node.kind != LayerKind::kBatchNorm) return false;
    const int read = roots_[node.values[0]];
    const int number = givers_[read];
    if (number < 0 || readers_[read] != 1) return false;
    StageLayers& stage = stages_[number];
    const LayerKind core = stage.core < 0 ? LayerKind::kNone : d_.nodes[stage.core].kind;
    if (node.kind == LayerKind::kBatchNorm) {
      if (!folds(stage, node)) return false;
      stage.norm = i;
    } else if (node.role == LayerRole::kPool) {
      const bool pools =
          core == LayerKind::kNone || core == LayerKind::kConv2d || core == LayerKind::kBatchNorm;
      const bool fits = stage.activation < 0 || pool_may_go_first(d_.nodes[stage.activation], node);
      if (!pools || stage.pool >= 0 || !fits) return false;
      stage.pool = i;
    } else {
      // These compute their own gradients from what they give.
      const bool needs_output = core == LayerKind::kSoftmax || core == LayerKind::kLogSoftmax;
      if (stage.activation >= 0 || needs_output || !gradient_from_output(activation_of(node))) return false;
      stage.activation = i;
    }
    givers_[read] = -1;
    set_stage(i, number);
    return true;
  }

  // Whether a batch_norm scales and shifts the channels of what the core of a stage gives, by numbers that are
  // known.
  bool folds(const StageLayers& stage, const Node& norm) const {
    const bool running = norm.numbers[0] == 0;
    if (sizes_ == nullptr || !running || stage.core < 0) return false;
    if (stage.norm >= 0 || stage.pool >= 0 || stage.activation >= 0) return false;
    const LayerKind core = d_.nodes[stage.core].kind;
    const SizeList &given = (*sizes_)[stage.core + 1], &read = (*sizes_)[norm.values[0]];
    // Not into a linear layer: its weight is read once for each image, and scaling it at each call costs more
    // than the norm of a few images.
    const bool by_channel = core == LayerKind::kConv2d || core == LayerKind::kConvTranspose2d;
    return by_channel && !read.empty() && read[0] == given[0];
  }

  void begin(int i) {
    const Node& node = d_.nodes[i];
    StageLayers stage{.first = i};
    const bool is_activation =
        node.role == LayerRole::kActivation && gradient_from_output(activation_of(node));
    (is_activation ? stage.activation : node.role == LayerRole::kPool ? stage.pool : stage.core) = i;
    for (int64_t value : node.values) stage.inputs.push_back(value_of_stages(value));
    stages_.push_back(std::move(stage));
    set_stage(i, static_cast<int>(stages_.size()) - 1);
  }

  void set_stage(int layer, int stage) { stage_of_[layer] = stage, givers_[layer + 1] = stage; }

  const Description& d_;
  const std::vector<SizeList>* const sizes_;
  std::vector<int> roots_, readers_;
  std::vector<int> givers_;  // the stage that gives a value, -1 for the images and what no stage ends with
  std::vector<int> stage_of_;
  std::vector<StageLayers> stages_;
};

}  // namespace lenet_ext
