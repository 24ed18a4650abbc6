// What an update of parameters is given besides gradients: the options and the state of an optimizer, checked.
#pragma once

#include "ops/network_tensors.h"

namespace lenet_ext {

// network: with an optimizer and the sizes of the parameters. like: on the device of the parameters, of the
// dtype of these. The tensors are TrainPass's options, state and steps.
class OptimizerTensors {
 public:
  OptimizerTensors(const char* op, const Network& network, const Tensor& like, const Tensors& state,
                   const Tensor& options)
      : op_(op), network_(network), like_(like), options_(options) {
    const auto rows = static_cast<int64_t>(network.parameter_sizes.size());
    if (options.scalar_type() != ScalarType::Double) fail(op, ": options must be float64");
    check_same_device(op, "a parameter", like, "options", options);
    check_sizes(op, "options", options, std::array{rows, options_per_parameter(network)});
    options_ = dense(options);
    const OptimizerInfo& info = kOptimizers[static_cast<int>(*network.optimizer)];
    if (state.size() != info.state.size() + info.counts_steps) {
      fail(op, ": the state must have ", info.state.size() + info.counts_steps, " tensors, got ",
           state.size());
    }
    for (size_t k = 0; k < info.state.size(); ++k) add(info.state[k], state[k]);
    if (info.counts_steps) count(state.back());
  }

  const double* options() const { return static_cast<const double*>(options_.const_data_ptr()); }
  void* const* state() const { return state_.data(); }
  float* steps() const { return steps_; }

 private:
  // One tensor for all parameters, one after the other; an empty one if none has any.
  void add(const char* name, const Tensor& tensor) {
    check_same_kind(op_, "a parameter", like_, name, tensor);
    if (!tensor.is_contiguous()) fail(op_, ": ", name, " must be contiguous");
    char* place = tensor.numel() == 0 ? nullptr : static_cast<char*>(tensor.mutable_data_ptr());
    int64_t elements = 0;
    for (const int64_t size : network_.parameter_sizes) {
      state_.push_back(place == nullptr ? nullptr : place + elements * tensor.element_size());
      elements += size;
    }
    if (place != nullptr) check_sizes(op_, name, tensor, std::array{elements});
  }

  void count(const Tensor& tensor) {
    check_same_device(op_, "a parameter", like_, "step", tensor);
    if (tensor.scalar_type() != ScalarType::Float || !tensor.is_contiguous()) {
      fail(op_, ": step must be contiguous and float32");
    }
    if (tensor.numel() == 0) return;
    check_sizes(op_, "step", tensor, std::array{static_cast<int64_t>(network_.parameter_sizes.size())});
    steps_ = static_cast<float*>(tensor.mutable_data_ptr());
  }

  const char* const op_;
  const Network& network_;
  const Tensor& like_;
  Tensor options_;
  std::vector<void*> state_;
  float* steps_ = nullptr;
};

}  // namespace lenet_ext
