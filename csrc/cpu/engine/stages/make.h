// The one place that knows which kernels a stage has.
#pragma once

#include "cpu/engine/stages/plain.h"

namespace lenet_ext::cpu {

// images: most images per call. backward, input_grad: whether these will be asked for.
template <class S>
std::unique_ptr<StageKernels<S>> make_stage_kernels(const Stage& stage, int64_t images, bool backward,
                                                    bool input_grad) {
  switch (stage.core) {
    case LayerKind::kNone:
    case LayerKind::kConv2d:
    case LayerKind::kLinear:
      return std::make_unique<PlainStage<S>>(stage, images, backward, input_grad);
    default:
      fail(stage.name, ": no kernel of the CPU takes this layer");
  }
}

}  // namespace lenet_ext::cpu
