// What an update of parameters is given besides gradients: the options and the state of an optimizer, checked.
#pragma once

#include "ops/network_tensors.h"

namespace lenet_ext {

// network: with an optimizer and the sizes of the parameters. like: on the device of the parameters, of the
// dtype of these, called `name`. The tensors are TrainPass's options, state and steps; in an ensemble of so many
// members options are (members, ...), or (1, ...) where all have the same, and what belongs to a parameter lies
// there for one member after the other.
class OptimizerTensors {
 public:
  OptimizerTensors(const char* op, const Network& network, const char* name, const Tensor& like,
                   const Tensors& state, const Tensor& options, std::optional<int64_t> members = std::nullopt)
      : op_(op),
        network_(network),
        name_(name),
        like_(like),
        options_(options),
        members_(members.value_or(1)) {
    const auto rows = static_cast<int64_t>(network.parameter_sizes.size());
    if (options.scalar_type() != ScalarType::Double) fail(op, ": options must be float64");
    check_same_device(op, name, like, "options", options);
    SizeList wanted{rows, options_per_parameter(network)};
    const bool shared = members && !options.sizes().empty() && options.size(0) == 1;
    if (members) wanted.insert(wanted.begin(), shared ? 1 : members_);
    check_sizes(op, "options", options, wanted);
    options_ = dense(options);
    options_step_ = members && !shared ? rows * options_per_parameter(network) : 0;
    const OptimizerInfo& info = kOptimizers[static_cast<int>(*network.optimizer)];
    if (state.size() != info.state.size() + info.counts_steps) {
      fail(op, ": the state must have ", info.state.size() + info.counts_steps, " tensors, got ",
           state.size());
    }
    if (info.counts_steps) count(state.back());
    for (size_t k = 0; k < info.state.size(); ++k) add(info.state[k], state[k]);
  }

  const double* options(int64_t member = 0) const {
    return static_cast<const double*>(options_.const_data_ptr()) + member * options_step_;
  }
  // Of the first member.
  void* const* state() const { return state_.data(); }
  std::vector<void*> state_of(int64_t member) const {
    std::vector<void*> own(state_.size());
    for (size_t i = 0; i < own.size(); ++i) {
      const int64_t size = network_.parameter_sizes[i % network_.parameter_sizes.size()];
      own[i] = state_[i] == nullptr ? nullptr
                                    : static_cast<char*>(state_[i]) + member * size * like_.element_size();
    }
    return own;
  }
  // Of each parameter those of all members; null where the optimizer does not count.
  float* steps() const { return steps_; }

 private:
  // One tensor for all parameters, one after the other; an empty one if none has any.
  void add(const char* name, const Tensor& tensor) {
    check_same_device(op_, name_, like_, name, tensor);
    if (tensor.scalar_type() != like_.scalar_type() || !tensor.is_contiguous()) {
      fail(op_, ": ", name, " must be contiguous, of the dtype of the parameters");
    }
    char* place = tensor.numel() == 0 ? nullptr : static_cast<char*>(tensor.mutable_data_ptr());
    int64_t elements = 0;
    for (const int64_t size : network_.parameter_sizes) {
      state_.push_back(place == nullptr ? nullptr : place + elements * tensor.element_size());
      elements += size * members_;
    }
    if (place != nullptr) check_sizes(op_, name, tensor, std::array{elements});
  }

  void count(const Tensor& tensor) {
    check_same_device(op_, name_, like_, "step", tensor);
    if (tensor.scalar_type() != ScalarType::Float || !tensor.is_contiguous()) {
      fail(op_, ": step must be contiguous and float32");
    }
    if (tensor.numel() == 0) return;
    const auto rows = static_cast<int64_t>(network_.parameter_sizes.size());
    check_sizes(op_, "step", tensor, std::array{rows * members_});
    steps_ = static_cast<float*>(tensor.mutable_data_ptr());
  }

  const char* const op_;
  const Network& network_;
  const char* const name_;
  const Tensor& like_;
  Tensor options_;
  const int64_t members_;
  int64_t options_step_;
  std::vector<void*> state_;
  float* steps_ = nullptr;
};

}  // namespace lenet_ext
