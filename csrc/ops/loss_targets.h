// What the loss of a step is given, checked: targets, and the tensors among its options.
#pragma once

#include "ops/network_tensors.h"

namespace lenet_ext {

// The place of an element, in each dimension where there are several.
inline std::string place_in(Sizes sizes, int64_t i) {
  if (sizes.size() == 1) return std::to_string(i);
  SizeList place(sizes.size());
  for (size_t axis = sizes.size(); axis-- > 0; i /= sizes[axis]) place[axis] = i % sizes[axis];
  return to_string(place);
}

// check(value, place) for all values of a tensor, or for those of the rows in `order`.
template <class Value, class Check>
void check_rows(const Tensor& tensor, const std::optional<Tensor>& order, const Check& check) {
  const Sizes sizes = sizes_of(tensor);
  const auto* const values = static_cast<const Value*>(tensor.const_data_ptr());
  const auto* const rows = order ? static_cast<const int64_t*>(order->const_data_ptr()) : nullptr;
  const int64_t count = order ? order->numel() : sizes[0];
  const int64_t size = tensor.numel() / std::max<int64_t>(sizes[0], 1);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = (order ? rows[i] : i) * size;
    for (int64_t j = first; j < first + size; ++j) check(values[j], j);
  }
}

// The values of `indices` must lie in [0, size), or be the one that is ignored.
inline void check_indices(const char* op, const char* name, const Tensor& indices, int64_t size,
                          const std::optional<Tensor>& order = std::nullopt,
                          std::optional<int64_t> ignored = std::nullopt) {
  check_rows<int64_t>(indices, order, [&](int64_t value, int64_t i) {
    if ((value < 0 || value >= size) && value != ignored) {
      fail_index(op, ": ", name, " ", value, " at position ", place_in(sizes_of(indices), i),
                 " is out of range [0, ", size, ")");
    }
  });
}

inline void check_int64(const char* op, const char* name, const Tensor& tensor, size_t dimensions) {
  if (tensor.scalar_type() != ScalarType::Long || tensor.sizes().size() != dimensions) {
    fail(op, ": ", name, " must be int64 with ", dimensions, dimensions == 1 ? " dimension" : " dimensions",
         ", got ", torch::headeronly::toString(tensor.scalar_type()), " ", to_string(sizes_of(tensor)));
  }
}

// Dense, kept alive while the kernels use them. A weight is that of the classes, (classes,), or else one of
// elements: (1, ...) for all images, or (N, ...) where every batch has N of them.
class LossTargets {
 public:
  LossTargets(const NetworkTensors& t, const Tensor& targets, const std::optional<Tensor>& weight,
              const std::optional<Tensor>& pos_weight)
      : t_(t), targets_(targets) {
    if (!t.network->loss) fail(op(), ": program names no loss");
    if (t.network->outputs.size() != 1) fail(op(), ": the network has several outputs, a loss is of one");
    const Loss& loss = *t.network->loss;
    if (loss.is_of_classes()) {
      check_class_targets();
    } else {
      check_kind();
    }
    check_same_device(op(), "images", t.images, "targets", targets_);
    targets_ = dense(targets_);
    const size_t used = kLosses[static_cast<int>(loss.kind)].tensors.size();
    if ((weight && used < 1) || (pos_weight && used < 2)) fail(op(), ": the loss has no such weight");
    if (weight) tensors_.weight = add(weight_, "weight", *weight, tensors_.weight_step);
    if (pos_weight)
      tensors_.pos_weight = add(pos_weight_, "pos_weight", *pos_weight, tensors_.pos_weight_step);
    image_bytes_ = targets_.element_size();
    for (const int64_t size : sizes_of(targets_).subspan(1)) image_bytes_ *= size;
  }

  // Of the targets that `order` has, on the host. It is checked before.
  void check_values(const std::optional<Tensor>& order) const {
    const Loss& loss = *t_.network->loss;
    if (loss.is_of_classes() && !tensors_.soft) {
      check_indices(op(), "target", targets_, outputs()[0], order, loss.ignored());
    }
    if (loss.kind == LossKind::kBinaryCrossEntropy) check_probabilities(order);
  }

  // Where the targets of image `first` of those that are available lie, and of later ones behind it.
  const void* from(int64_t first) const {
    return static_cast<const char*>(targets_.const_data_ptr()) + first * image_bytes_;
  }
  const LossTensors& tensors() const { return tensors_; }

  // Batches of batch_size images, the last perhaps smaller, must fit to a weight that has one for each.
  void check_batches(int64_t count, int64_t batch_size) const {
    const auto check = [&](const char* name, const std::optional<Tensor>& tensor, int64_t step) {
      if (step == 0) return;
      const int64_t rows = sizes_of(*tensor)[0], last = count % batch_size;
      if (rows != batch_size || last != 0) {
        fail(op(), ": the loss's ", name, " is for batches of ", rows, " images, got ",
             rows != batch_size ? batch_size : last);
      }
    };
    check("weight", weight_, tensors_.weight_step);
    check("pos_weight", pos_weight_, tensors_.pos_weight_step);
  }

  // Where outputs have no loss.
  [[noreturn]] void refuse_outputs() const {
    fail(op(),
         ": binary cross entropy needs outputs between 0 and 1: end the network with a sigmoid, or use "
         "torch.nn.BCEWithLogitsLoss");
  }

 private:
  const char* op() const { return t_.op(); }
  const SizeList& outputs() const { return t_.network->output_sizes(); }
  ScalarType stored() const { return kScalarTypes[t_.dtype]; }

  void check_kind() const {
    if (targets_.scalar_type() != stored()) {
      fail(op(), ": targets must be ", torch::headeronly::toString(stored()), ", got ",
           torch::headeronly::toString(targets_.scalar_type()));
    }
    check_sizes(op(), "targets", targets_, t_.with_batch(outputs()));
  }

  void check_class_targets() {
    const Loss& loss = *t_.network->loss;
    if (outputs().empty()) {
      fail(op(), ": the loss needs outputs (N, classes, ...), got sizes ",
           to_string(t_.with_batch(outputs())));
    }
    const auto type = targets_.scalar_type();
    const bool floating = std::ranges::find(kScalarTypes.values, type) != std::end(kScalarTypes.values);
    const SizeList sizes = t_.with_batch(outputs());
    if (loss.kind == LossKind::kCrossEntropy && floating && std::ranges::equal(sizes_of(targets_), sizes)) {
      check_kind();
      if (loss.ignored() >= 0) fail(op(), ": ignore_index is not for targets that are probabilities");
      tensors_.soft = true;
      return;
    }
    check_int64(op(), "targets", targets_, outputs().size());
    SizeList wanted(outputs());
    wanted[0] = t_.batch;
    check_sizes(op(), "targets", targets_, wanted);
  }

  void check_probabilities(const std::optional<Tensor>& order) const {
    const auto check = [&]<class Stored>(std::type_identity<Stored>) {
      check_rows<Stored>(targets_, order, [&](Stored stored, int64_t i) {
        const auto value = to_compute(stored);
        if (value >= 0 && value <= 1) return;
        fail(op(), ": target ", value, " at position ", place_in(sizes_of(targets_), i),
             " is not between 0 and 1");
      });
    };
    switch (t_.dtype) {
      case DType::kFloat32:
        return check(std::type_identity<float>{});
      case DType::kFloat64:
        return check(std::type_identity<double>{});
      case DType::kBFloat16:
        return check(std::type_identity<BFloat16>{});
      case DType::kFloat16:
        return check(std::type_identity<Float16>{});
    }
  }

  const void* add(std::optional<Tensor>& kept, const char* name, const Tensor& tensor, int64_t& step) {
    const std::string full = std::string("the loss's ") + name;
    if (tensor.scalar_type() != stored()) {
      fail(op(), ": ", full, " must be ", torch::headeronly::toString(stored()), " like the parameters, got ",
           torch::headeronly::toString(tensor.scalar_type()));
    }
    check_same_device(op(), "images", t_.images, full.c_str(), tensor);
    const Sizes sizes = sizes_of(tensor);
    if (t_.network->loss->is_of_classes()) {
      check_sizes(op(), full.c_str(), tensor, std::array{outputs()[0]});
    } else if (sizes.size() != outputs().size() + 1 || !std::ranges::equal(sizes.subspan(1), outputs())) {
      fail(op(), ": ", full, " must have the sizes ", to_string(outputs()), " for each image, got ",
           to_string(sizes));
    } else {
      step = sizes[0] == 1 ? 0 : t_.network->output_size();
    }
    kept = dense(tensor);
    return kept->const_data_ptr();
  }

  const NetworkTensors& t_;
  Tensor targets_;
  std::optional<Tensor> weight_, pos_weight_;
  LossTensors tensors_;
  int64_t image_bytes_;
};

}  // namespace lenet_ext
