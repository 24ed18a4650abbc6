// The sizes that layers without weights give, from those that they read: all of one image. The checks of what
// a description says of them, too.
#pragma once

#include "engine/description.h"

namespace lenet_ext {

// The window of a pool over one dimension.
struct PoolAxis {
  int64_t size, kernel, stride, pad;
};

// As in ATen. op: for errors.
inline int64_t avg_pool_output_size(const char* op, const PoolAxis& axis, bool ceil_mode) {
  check_parameter(op, "kernel_size", axis.kernel, 1);
  check_parameter(op, "stride", axis.stride, 1);
  check_parameter(op, "padding", axis.pad, 0);
  if (axis.pad > axis.kernel / 2) {
    fail(op, ": padding must be at most half of the kernel, got padding ", axis.pad, ", kernel ", axis.kernel);
  }
  const int64_t size =
      max_pool_output_size(axis.size, axis.kernel, axis.stride, axis.pad, 1, ceil_mode);
  if (size < 1) fail(op, ": padded input ", axis.size + 2 * axis.pad, " is smaller than the kernel's ", axis.kernel);
  return size;
}

class LayerSizes {
 public:
  // op: for errors. inputs: the sizes of the values that `node` reads.
  LayerSizes(const std::string& op, const Node& node, const std::vector<SizeList>& inputs)
      : op_(op), n_(node.numbers), kind_(node.kind), inputs_(inputs), in_(inputs[0]) {}

  SizeList of() const {
    switch (kind_) {
      case LayerKind::kAvgPool2d:
        need_images();
        return {in_[0], pooled(1, 0), pooled(2, 1)};
      case LayerKind::kAdaptiveAvgPool2d:
      case LayerKind::kAdaptiveMaxPool2d:
        need_images();
        for (int64_t size : n_) check_parameter(op_.c_str(), "output_size", size, 1);
        if (in_[1] == 0 || in_[2] == 0) fail(op_, ": the image has no pixel");
        return {in_[0], n_[0], n_[1]};
      case LayerKind::kSoftmax:
      case LayerKind::kLogSoftmax:
        dim(n_[0]);
        return in_;
      case LayerKind::kPermute:
        return permuted();
      case LayerKind::kPad:
        return padded();
      case LayerKind::kSlice:
        return sliced();
      case LayerKind::kConcat:
        return concatenated();
      case LayerKind::kAdd:
      case LayerKind::kMul:
        if (inputs_[1] != in_) {
          fail(op_, ": both inputs must have the same sizes, got ", to_string(in_), " and ", to_string(inputs_[1]));
        }
        return in_;
      case LayerKind::kFlatten:
        return {element_count(op_.c_str(), in_)};
      case LayerKind::kReshape:
        return reshaped();
      default:
        return in_;
    }
  }

 private:
  void need_images() const {
    if (in_.size() != 3) fail(op_, " needs images (N, C, H, W)");
  }
  size_t dim(int64_t number) const {
    if (number < 0 || number >= static_cast<int64_t>(in_.size())) {
      fail(op_, ": dimension ", number, " of one image is not there, it has ", to_string(in_));
    }
    return static_cast<size_t>(number);
  }

  int64_t pooled(size_t dim, size_t axis) const {
    constexpr size_t kCeilMode = 6, kDivisor = 8;
    check_parameter(op_.c_str(), "divisor_override", n_[kDivisor], 0);
    return avg_pool_output_size(op_.c_str(), {in_[dim], n_[axis], n_[2 + axis], n_[4 + axis]}, n_[kCeilMode] != 0);
  }

  SizeList permuted() const {
    SizeList out, seen(in_.size());
    if (n_.size() != in_.size()) fail(op_, ": the permutation must have ", in_.size(), " dimensions");
    for (int64_t number : n_) {
      if (seen[dim(number)]++ != 0) fail(op_, ": dimension ", number, " comes twice in the permutation");
      out.push_back(in_[number]);
    }
    return out;
  }

  SizeList padded() const {
    SizeList out = in_;
    if (n_.size() != 2 * in_.size()) fail(op_, ": padding must have two numbers for each dimension");
    for (size_t i = 0; i < in_.size(); ++i) {
      for (int64_t pad : {n_[2 * i], n_[2 * i + 1]}) {
        if (pad > kLargestParameter || pad < -in_[i]) fail(op_, ": padding of ", pad, " does not fit ", in_[i]);
        out[i] += pad;
      }
      if (out[i] < 0) fail(op_, ": nothing is left of dimension ", i);
    }
    return out;
  }

  SizeList sliced() const {
    SizeList out = in_;
    const size_t along = dim(n_[0]);
    const int64_t start = n_[1], stop = n_[2], step = n_[3];
    if (start < 0 || stop < start || stop > in_[along] || step < 1) {
      fail(op_, ": slice ", start, ":", stop, ":", step, " does not fit ", in_[along]);
    }
    out[along] = (stop - start + step - 1) / step;
    return out;
  }

  SizeList concatenated() const {
    SizeList out = in_;
    const size_t along = dim(n_[0]);
    out[along] = 0;
    for (const SizeList& one : inputs_) {
      bool fits = one.size() == in_.size();
      for (size_t i = 0; fits && i < one.size(); ++i) fits = i == along || one[i] == in_[i];
      if (!fits) fail(op_, ": inputs of sizes ", to_string(in_), " and ", to_string(one), " cannot be joined");
      out[along] += one[along];
    }
    return out;
  }

  SizeList reshaped() const {
    SizeList out = n_;
    const int64_t elements = element_count(op_.c_str(), in_);
    int64_t known = 1, *unknown = nullptr;
    for (int64_t& size : out) {
      if (size == -1 && unknown == nullptr) {
        unknown = &size;
      } else if (size < 0) {
        fail(op_, ": cannot reshape to ", to_string(n_));
      } else {
        known = multiply_sizes(op_.c_str(), known, size);
      }
    }
    if (unknown != nullptr && known > 0 && elements % known == 0) *unknown = elements / known, known = elements;
    if (known != elements) fail(op_, ": cannot reshape ", to_string(in_), " to ", to_string(n_));
    return out;
  }

  const std::string& op_;
  const SizeList& n_;
  const LayerKind kind_;
  const std::vector<SizeList>& inputs_;
  const SizeList& in_;
};

}  // namespace lenet_ext
