// The one place that knows which kernels a stage has.
#pragma once

#include "cpu/engine/stages/activated.h"
#include "cpu/engine/stages/activation.h"
#include "cpu/engine/stages/adaptive_max_pool2d.h"
#include "cpu/engine/stages/avg_pool2d.h"
#include "cpu/engine/stages/batch_norm.h"
#include "cpu/engine/stages/broadcast.h"
#include "cpu/engine/stages/combine.h"
#include "cpu/engine/stages/conv_transpose2d.h"
#include "cpu/engine/stages/dropout.h"
#include "cpu/engine/stages/image_norm.h"
#include "cpu/engine/stages/plain.h"
#include "cpu/engine/stages/prelu.h"
#include "cpu/engine/stages/rearrange.h"
#include "cpu/engine/stages/softmax.h"
#include "engine/layer_sizes.h"

namespace lenet_ext::cpu {

template <class S>
std::unique_ptr<StageKernels<S>> make_batch_norm(const Stage& s) {
  const int64_t channels = s.channels();
  const BatchNormShape shape{
      .channels = channels, .plane = channels == 0 ? 0 : s.input_size / channels, .eps = s.layer.reals[0]};
  return std::make_unique<BatchNormStage<S>>(shape, s);
}

template <class S>
std::unique_ptr<StageKernels<S>> make_dropout(const Stage& s) {
  const bool per_channel = s.layer.numbers[0] != 0;
  const int64_t channels = per_channel ? s.channels() : s.input_size;
  const int64_t plane = channels == 0 ? 0 : s.input_size / channels;
  return std::make_unique<DropoutStage<S>>(channels, plane, s.layer.reals[0],
                                           static_cast<uint32_t>(s.number));
}

// Elements before and behind dimension `dim`.
inline int64_t elements_before(const SizeList& sizes, int64_t dim) {
  return element_count("stage", Sizes(sizes).first(dim));
}
inline int64_t elements_behind(const SizeList& sizes, int64_t dim) {
  return element_count("stage", Sizes(sizes).subspan(dim + 1));
}

inline ImageNormShape image_norm_shape(const Stage& s) {
  const SizeList& sizes = s.input_sizes[0];
  const bool weighted = !s.layer.parameters.empty();
  ImageNormShape shape{.eps = s.layer.reals[0]};
  if (s.core == LayerKind::kGroupNorm) {
    shape.groups = s.layer.numbers[0];
    shape.size = s.input_size / shape.groups;
    if (weighted) shape.weights = s.channels(), shape.run = elements_behind(sizes, 0);
  } else {
    const auto first = static_cast<int64_t>(sizes.size()) - s.layer.numbers[0];
    shape.groups = elements_before(sizes, first);
    shape.size = elements_behind(sizes, first - 1);
    if (weighted) shape.weights = shape.size, shape.run = 1;
  }
  if (!weighted) shape.run = shape.size;
  return shape;
}

inline Broadcast broadcast_of(const Stage& s) {
  return broadcast(s.name, s.input_sizes[0], s.parameter_sizes[0]);
}

template <class S>
std::unique_ptr<StageKernels<S>> make_softmax(const Stage& s) {
  const SizeList& sizes = s.input_sizes[0];
  const int64_t dim = s.layer.numbers[0];
  return std::make_unique<SoftmaxStage<S>>(SoftmaxShape{.outer = elements_before(sizes, dim),
                                                        .size = sizes[dim],
                                                        .inner = elements_behind(sizes, dim),
                                                        .logarithm = s.core == LayerKind::kLogSoftmax});
}

template <class S>
std::unique_ptr<StageKernels<S>> make_concat(const Stage& s) {
  const int64_t dim = s.layer.numbers[0];
  std::vector<int64_t> runs;
  for (const SizeList& sizes : s.input_sizes) runs.push_back(sizes[dim] * elements_behind(sizes, dim));
  return std::make_unique<ConcatStage<S>>(std::move(runs), elements_before(s.input_sizes[0], dim));
}

inline Rearrangement rearrangement_of(const Stage& s) {
  const SizeList &n = s.layer.numbers, &sizes = s.input_sizes[0];
  const char* const op = s.name.c_str();
  switch (s.core) {
    case LayerKind::kPermute:
      return permutation(op, sizes, n);
    case LayerKind::kPad:
      return padded(op, sizes, n, s.layer.reals[0]);
    default:
      return sliced(op, sizes, n[0], n[1], n[2], n[3]);
  }
}

// The core of a stage alone.
template <class S>
std::unique_ptr<StageKernels<S>> make_core(const Stage& s, int64_t images, bool backward, bool input_grad) {
  switch (s.core) {
    case LayerKind::kConvTranspose2d:
      return std::make_unique<ConvTranspose2dStage<S>>(s, images, backward, input_grad);
    case LayerKind::kAvgPool2d:
    case LayerKind::kAdaptiveAvgPool2d:
      return std::make_unique<AvgPool2dStage<S>>(
          window_pool2d_shape(s.name.c_str(), s.layer, s.input_sizes[0]));
    case LayerKind::kAdaptiveMaxPool2d:
      return std::make_unique<AdaptiveMaxPool2dStage<S>>(
          window_pool2d_shape(s.name.c_str(), s.layer, s.input_sizes[0]));
    case LayerKind::kBatchNorm:
      return make_batch_norm<S>(s);
    case LayerKind::kGroupNorm:
    case LayerKind::kLayerNorm:
      return std::make_unique<ImageNormStage<S>>(image_norm_shape(s), s.layer.parameters);
    case LayerKind::kDropout:
      return make_dropout<S>(s);
    case LayerKind::kActivation:
      return std::make_unique<ActivationStage<S>>(activation_of(s.layer), s.input_size);
    case LayerKind::kPRelu:
      return std::make_unique<PReluStage<S>>(s);
    case LayerKind::kShift:
      return std::make_unique<ShiftStage<S>>(broadcast_of(s), static_cast<int>(s.layer.parameters[0]),
                                             s.layer.reals[0]);
    case LayerKind::kGain:
      return std::make_unique<GainStage<S>>(broadcast_of(s), static_cast<int>(s.layer.parameters[0]));
    case LayerKind::kSoftmax:
    case LayerKind::kLogSoftmax:
      return make_softmax<S>(s);
    case LayerKind::kPermute:
    case LayerKind::kPad:
    case LayerKind::kSlice:
      return std::make_unique<RearrangeStage<S>>(rearrangement_of(s));
    case LayerKind::kAdd:
      return std::make_unique<AddStage<S>>(s.input_size, s.layer.reals[0]);
    case LayerKind::kMul:
      return std::make_unique<MulStage<S>>(s.input_size);
    case LayerKind::kConcat:
      return make_concat<S>(s);
    default:
      fail(s.name, ": no kernel of the CPU takes this layer");
  }
}

// images: most images per call. backward, input_grad: whether these will be asked for.
template <class S>
std::unique_ptr<StageKernels<S>> make_stage_kernels(const Stage& s, int64_t images, bool backward,
                                                    bool input_grad) {
  if (s.core == LayerKind::kNone || s.core == LayerKind::kConv2d || s.core == LayerKind::kLinear) {
    return std::make_unique<PlainStage<S>>(s, images, backward, input_grad);
  }
  std::unique_ptr<StageKernels<S>> core = make_core<S>(s, images, backward, input_grad);
  if (s.activation.kind == Activation::kNone || s.core == LayerKind::kBatchNorm) return core;
  return std::make_unique<ActivatedStage<S>>(std::move(core), s.activation, s.output_size);
}

}  // namespace lenet_ext::cpu
