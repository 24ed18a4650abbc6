// The sizes that layers without weights give, from those that they read: all of one image. The checks of what
// a description says of them, too.
#pragma once

#include "engine/description.h"
#include "pool_shapes.h"

namespace lenet_ext {

inline AvgPool2dParameters avg_pool2d_parameters(const Node& node) {
  const SizeList& n = node.numbers;
  return {.kernel_height = n[0],
          .kernel_width = n[1],
          .stride_h = n[2],
          .stride_w = n[3],
          .pad_h = n[4],
          .pad_w = n[5],
          .ceil_mode = n[6] != 0,
          .count_include_pad = n[7] != 0,
          .divisor_override = n[8]};
}

// The windows of avg_pool2d or of an adaptive pool; sizes: (C, H, W).
inline WindowPool2dShape window_pool2d_shape(const char* op, const Node& node, const SizeList& sizes) {
  if (sizes.size() != 3) fail(op, ": a pool needs images (N, C, H, W)");
  const std::array one_image = {int64_t{1}, sizes[0], sizes[1], sizes[2]};
  if (node.kind == LayerKind::kAvgPool2d) return avg_pool2d_shape(op, one_image, avg_pool2d_parameters(node));
  return adaptive_pool2d_shape(op, one_image, node.numbers[0], node.numbers[1]);
}

class LayerSizes {
 public:
  // op: for errors. inputs: the sizes of the values that `node` reads.
  LayerSizes(const std::string& op, const Node& node, const std::vector<SizeList>& inputs)
      : op_(op), node_(node), n_(node.numbers), inputs_(inputs), in_(inputs[0]) {}

  SizeList of() const {
    switch (node_.kind) {
      case LayerKind::kAvgPool2d:
      case LayerKind::kAdaptiveAvgPool2d:
      case LayerKind::kAdaptiveMaxPool2d: {
        const WindowPool2dShape shape = window_pool2d_shape(op_.c_str(), node_, in_);
        return {shape.channels, shape.rows.out_size, shape.columns.out_size};
      }
      case LayerKind::kSoftmax:
      case LayerKind::kLogSoftmax:
        dim(n_[0]);
        return in_;
      case LayerKind::kGroupNorm:
        if (n_[0] < 1 || in_.empty() || in_[0] % n_[0] != 0) {
          fail(op_, ": images of ", to_string(in_), " cannot be parted in ", n_[0], " groups of channels");
        }
        return in_;
      case LayerKind::kLayerNorm:
        if (n_[0] < 1 || n_[0] > static_cast<int64_t>(in_.size())) {
          fail(op_, ": images of ", to_string(in_), " cannot be normalized over ", n_[0], " dimensions");
        }
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
          fail(op_, ": both inputs must have the same sizes, got ", to_string(in_), " and ",
               to_string(inputs_[1]));
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
  size_t dim(int64_t number) const {
    if (number < 0 || number >= static_cast<int64_t>(in_.size())) {
      fail(op_, ": dimension ", number, " of one image is not there, it has ", to_string(in_));
    }
    return static_cast<size_t>(number);
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
        if (pad > kLargestParameter || pad < -in_[i])
          fail(op_, ": padding of ", pad, " does not fit ", in_[i]);
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
      if (!fits)
        fail(op_, ": inputs of sizes ", to_string(in_), " and ", to_string(one), " cannot be joined");
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
    if (unknown != nullptr && known > 0 && elements % known == 0)
      *unknown = elements / known, known = elements;
    if (known != elements) fail(op_, ": cannot reshape ", to_string(in_), " to ", to_string(n_));
    return out;
  }

  const std::string& op_;
  const Node& node_;
  const SizeList& n_;
  const std::vector<SizeList>& inputs_;
  const SizeList& in_;
};

}  // namespace lenet_ext
