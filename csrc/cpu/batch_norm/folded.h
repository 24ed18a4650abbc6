// A batch norm with running statistics as part of the layer before it: that one's weight times the scale of the
// output channel, and the bias that goes with it. Computed in double, rounded once.
#pragma once

#include <cmath>
#include <vector>

#include "engine/network.h"

namespace lenet_ext::cpu {

template <class T>
class Folded {
 public:
  Folded(const FoldedNorm& norm, int64_t channels) : p_(norm.parameters), eps_(norm.eps), scales_(channels) {}

  // tensors: all parameters of the network. To be called before the others.
  void set_statistics(const T* const* tensors) {
    mean_ = tensors[p_.running_mean];
    shift_ = p_.bias < 0 ? nullptr : tensors[p_.bias];
    const T *const variance = tensors[p_.running_variance], *const weight =
                                                                p_.weight < 0 ? nullptr : tensors[p_.weight];
    for (size_t c = 0; c < scales_.size(); ++c) {
      const double scale = weight == nullptr ? 1.0 : static_cast<double>(weight[c]);
      scales_[c] = scale / std::sqrt(static_cast<double>(variance[c]) + eps_);
    }
  }

  // Of (out channels, ...). What is returned lives until the next call.
  const T* weight(const T* weight, int64_t size) {
    weight_.resize(size);
    const int64_t row = size / static_cast<int64_t>(scales_.size());
    for (size_t c = 0; c < scales_.size(); ++c) scale(weight, static_cast<int64_t>(c) * row, row, scales_[c]);
    return weight_.data();
  }
  // Of (in channels, out channels of a group, taps).
  const T* transposed_weight(const T* weight, int64_t in_channels, int64_t groups, int64_t taps) {
    const auto channels = static_cast<int64_t>(scales_.size());
    const int64_t of_group = channels / groups;
    weight_.resize(in_channels * of_group * taps);
    for (int64_t i = 0; i < in_channels; ++i) {
      const double* const scales = scales_.data() + i / (in_channels / groups) * of_group;
      for (int64_t c = 0; c < of_group; ++c) scale(weight, (i * of_group + c) * taps, taps, scales[c]);
    }
    return weight_.data();
  }
  // bias: of the layer; null where it has none.
  const T* bias(const T* bias) {
    bias_.resize(scales_.size());
    for (size_t c = 0; c < scales_.size(); ++c) {
      const double value = bias == nullptr ? 0.0 : static_cast<double>(bias[c]);
      const double shift = shift_ == nullptr ? 0.0 : static_cast<double>(shift_[c]);
      bias_[c] = static_cast<T>((value - static_cast<double>(mean_[c])) * scales_[c] + shift);
    }
    return bias_.data();
  }

 private:
  void scale(const T* weight, int64_t first, int64_t count, double factor) {
    for (int64_t i = first; i < first + count; ++i) {
      weight_[i] = static_cast<T>(static_cast<double>(weight[i]) * factor);
    }
  }

  const BatchNormParameters p_;
  const double eps_;
  const T *mean_ = nullptr, *shift_ = nullptr;
  std::vector<double> scales_;
  std::vector<T> weight_, bias_;
};

}  // namespace lenet_ext::cpu
