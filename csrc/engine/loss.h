// The losses of a training step: torch.nn's, with their options. What one computes is in each backend:
// cpu/engine/loss.h, cuda/engine/loss.cuh.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lenet_ext {

enum class LossKind : int32_t {
  // Of outputs (N, classes, ...) and int64 classes (N, ...); the first also of the probabilities of classes, of
  // the sizes and the dtype of the outputs.
  kCrossEntropy,
  kNegativeLogLikelihood,
  // Of outputs and targets of the same sizes and dtype.
  kSquaredError,
  kL1,
  kSmoothL1,
  kHuber,
  kBinaryCrossEntropy,
  kBinaryCrossEntropyWithLogits,
};

// How Python knows a loss: by a name, with attributes of its module that are numbers and tensors.
struct LossInfo {
  const char* name;
  std::span<const char* const> options, tensors;
};

inline constexpr size_t kMostLossOptions = 2;
inline constexpr const char* kCrossEntropyOptions[] = {"ignore_index", "label_smoothing"};
inline constexpr const char* kNllOptions[] = {"ignore_index"};
inline constexpr const char* kSmoothL1Options[] = {"beta"};
inline constexpr const char* kHuberOptions[] = {"delta"};
inline constexpr const char* kLossTensors[] = {"weight", "pos_weight"};
inline constexpr auto kLossWeight = std::span(kLossTensors).first(1);

// By LossKind.
inline constexpr LossInfo kLosses[] = {
    {"cross_entropy", kCrossEntropyOptions, kLossWeight},
    {"nll", kNllOptions, kLossWeight},
    {"mse", {}, {}},
    {"l1", {}, {}},
    {"smooth_l1", kSmoothL1Options, {}},
    {"huber", kHuberOptions, {}},
    {"bce", {}, kLossWeight},
    {"bce_with_logits", {}, kLossTensors},
};

struct Loss {
  LossKind kind;
  bool mean = true;                                   // else the sum
  std::array<double, kMostLossOptions> options = {};  // by LossInfo::options

  // torch's defaults.
  static constexpr Loss of(LossKind kind) {
    Loss loss{kind};
    if (kind == LossKind::kCrossEntropy || kind == LossKind::kNegativeLogLikelihood) loss.options[0] = -100;
    if (kind == LossKind::kSmoothL1 || kind == LossKind::kHuber) loss.options[0] = 1;
    return loss;
  }

  constexpr bool is_of_classes() const {
    return kind == LossKind::kCrossEntropy || kind == LossKind::kNegativeLogLikelihood;
  }
  // The class whose targets count nothing.
  constexpr int64_t ignored() const { return is_of_classes() ? static_cast<int64_t>(options[0]) : 0; }
  constexpr double label_smoothing() const { return kind == LossKind::kCrossEntropy ? options[1] : 0; }
  constexpr double width() const { return options[0]; }  // beta or delta
};

// What the loss of a step is given besides outputs and targets, of the stored type.
struct LossTensors {
  bool soft = false;  // targets are the probabilities of classes
  // Of the classes, or of the elements of an image, or of those of each image of the batch; or null.
  const void *weight = nullptr, *pos_weight = nullptr;
  // Elements from one image of the batch to the next, 0 where all images have the same.
  int64_t weight_step = 0, pos_weight_step = 0;
};

}  // namespace lenet_ext
