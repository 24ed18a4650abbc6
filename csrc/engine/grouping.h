// Which layers of a network make a stage, that kernels compute together: conv2d, linear or nothing, then
// max_pool2d, then an activation, each of the last two if wanted. Sizes do not matter here.
#pragma once

#include "engine/description.h"

namespace lenet_ext {

// The layers of a stage; -1 where there is none. last: the one with its result.
struct StageLayers {
  int core = -1, pool = -1, activation = -1, last = -1;
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
inline bool pool_may_go_first(const ActivationCall& activation, const Node& pool) {
  if (pool.kind != LayerKind::kMaxPool2d) return false;
  const MaxPool2dParameters p = max_pool2d_parameters(pool);
  // A window may lie in the padding alone: its maximum is -inf, which an activation must not change.
  const bool skips_pixels = (p.pad_h > 0 && p.dilation_h > 1) || (p.pad_w > 0 && p.dilation_w > 1);
  return commutes_with_max_pool(activation) && !skips_pixels;
}

inline std::vector<StageLayers> group_layers(const Description& description) {
  const std::vector<Node>& nodes = description.nodes;
  std::vector<StageLayers> stages;
  for (int i = 0; i < static_cast<int>(nodes.size()); ++i) {
    const Node& node = nodes[i];
    if (node.values[0] != i) {
      fail(description.name, ": layer ", i,
           " does not read the result of the one before: no kernel takes branches");
    }
    const StageLayers* const last = stages.empty() ? nullptr : &stages.back();
    bool begins = last == nullptr;
    switch (node.role) {
      case LayerRole::kNone:
        continue;
      case LayerRole::kCore:
        begins = true;
        break;
      case LayerRole::kPool:
        begins = begins || last->pool >= 0 ||
                 (last->activation >= 0 && !pool_may_go_first(nodes[last->activation].activation, node));
        break;
      case LayerRole::kActivation:
        begins = begins || last->activation >= 0;
    }
    if (begins) stages.emplace_back();
    StageLayers& stage = stages.back();
    (node.role == LayerRole::kPool         ? stage.pool
     : node.role == LayerRole::kActivation ? stage.activation
                                           : stage.core) = i;
    stage.last = i;
  }
  if (stages.empty()) fail(description.name, ": the network has no layer that computes anything");
  if (description.outputs.size() != 1 || description.outputs[0] != static_cast<int64_t>(nodes.size())) {
    fail(description.name, ": the last result, and that alone, must be returned");
  }
  return stages;
}

}  // namespace lenet_ext
