// Training steps as operators take them: their tensors, checked, and the loop over batches.
#pragma once

#include <optional>

#include "ops/loss_targets.h"
#include "ops/network_tensors.h"
#include "ops/running_statistics.h"

namespace lenet_ext {

// Of what is written to.
inline void check_contiguous(const char* op, const Tensors& parameters) {
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(op, ": parameters must be contiguous");
  }
}

// What a step is given besides images and parameters, checked and dense.
struct StepTensors {
  // members: of an ensemble, whose options are (members, ...), or (1, ...) where all have the same.
  StepTensors(const NetworkTensors& t, const Backend& kernels, const std::optional<Tensor>& wanted_order,
              const Tensors& all_state, const Tensor& all_options,
              std::optional<int64_t> members = std::nullopt)
      : options(all_options), members_(members.value_or(1)) {
    const char* const op = t.op();
    if (!t.network->optimizer) fail(op, ": program names no optimizer");
    if (wanted_order) {
      check_int64(op, "order", *wanted_order, 1);
      check_same_device(op, "images", t.images, "order", *wanted_order);
      order = dense(*wanted_order);
      if (kernels.on_host()) check_indices(op, "order", *order, t.batch);
    }
    const auto rows = static_cast<int64_t>(t.parameters.size());
    if (options.scalar_type() != ScalarType::Double) fail(op, ": options must be float64");
    check_same_device(op, "images", t.images, "options", options);
    SizeList wanted{rows, options_per_parameter(*t.network)};
    const bool shared = members && !options.sizes().empty() && options.size(0) == 1;
    if (members) wanted.insert(wanted.begin(), shared ? 1 : members_);
    check_sizes(op, "options", options, wanted);
    options = dense(options);
    options_step_ = members && !shared ? rows * options_per_parameter(*t.network) : 0;
    check_state(t, all_state);
  }

  // Those of a member.
  const double* options_of(int64_t member) const {
    return static_cast<const double*>(options.const_data_ptr()) + member * options_step_;
  }
  std::vector<void*> state_of(const NetworkTensors& t, int64_t member) const {
    std::vector<void*> own(state.size());
    const int64_t bytes = t.parameters.empty() ? 0 : t.parameters[0].element_size();
    for (size_t i = 0; i < own.size(); ++i) {
      const int64_t size = t.network->parameter_sizes[i % t.parameters.size()];
      own[i] = state[i] == nullptr ? nullptr : static_cast<char*>(state[i]) + member * size * bytes;
    }
    return own;
  }

  Tensor options;
  std::optional<Tensor> order;
  std::vector<void*> state;  // of the first member
  float* steps = nullptr;    // of each parameter those of all members

 private:
  // Of each name one tensor for all parameters, one after the other (in an ensemble each with those of its
  // members); an empty one if none has any. Behind
  // them, of an optimizer that counts its steps, those of each parameter.
  void check_state(const NetworkTensors& t, const Tensors& tensors) {
    const char* const op = t.op();
    const OptimizerInfo& info = kOptimizers[static_cast<int>(*t.network->optimizer)];
    const std::span names = info.state;
    if (tensors.size() != names.size() + info.counts_steps) {
      fail(op, ": the state must have ", names.size() + info.counts_steps, " tensors, got ", tensors.size());
    }
    if (info.counts_steps) check_steps(t, tensors.back());
    for (size_t k = 0; k < names.size(); ++k) {
      const Tensor& tensor = tensors[k];
      check_same_device(op, "images", t.images, names[k], tensor);
      if (tensor.scalar_type() != kScalarTypes[t.dtype] || !tensor.is_contiguous()) {
        fail(op, ": ", names[k], " must be contiguous, of the dtype of the parameters");
      }
      char* place = tensor.numel() == 0 ? nullptr : static_cast<char*>(tensor.mutable_data_ptr());
      int64_t count = 0;
      for (const int64_t size : t.network->parameter_sizes) {
        state.push_back(place == nullptr ? nullptr : place + count * tensor.element_size());
        count += size * members_;
      }
      if (place != nullptr) check_sizes(op, names[k], tensor, std::array{count});
    }
  }

  void check_steps(const NetworkTensors& t, const Tensor& tensor) {
    const char* const op = t.op();
    check_same_device(op, "images", t.images, "step", tensor);
    if (tensor.scalar_type() != ScalarType::Float || !tensor.is_contiguous()) {
      fail(op, ": step must be contiguous and float32");
    }
    if (tensor.numel() == 0) return;
    check_sizes(op, "step", tensor, std::array{static_cast<int64_t>(t.parameters.size()) * members_});
    steps = static_cast<float*>(tensor.mutable_data_ptr());
  }

  int64_t members_, options_step_;
};

// The steps of one network, or of one member of an ensemble; pointers are to what is its own.
struct Steps {
  int64_t first, count;  // of the images, or of the order, which may be null
  const int64_t* order;
  int64_t batch_size;
  void* const* parameters;
  void* const* state;
  float* counts;  // of the steps of each parameter
  const double* options;
  const int64_t* seeds;  // of each step, or null
  char* losses;          // of each step
  int64_t member = 0;

  int64_t steps() const { return count / batch_size + (count % batch_size != 0); }
};

// Takes the steps one by one. on_refusal(step, loss): of one that was not taken; whether to go on.
template <class OnRefusal>
void take_steps(const NetworkTensors& t, const Backend& kernels, const LossTargets& wanted,
                const RunningStatistics& running, const Steps& s, void* statistics,
                const OnRefusal& on_refusal) {
  const int64_t stored_bytes =
      t.parameters.empty() ? t.images.element_size() : t.parameters[0].element_size();
  const int64_t image_bytes = t.network->image_size() * t.images.element_size();
  for (int64_t step = 0; step < s.steps(); ++step) {
    const int64_t first = s.first + step * s.batch_size;
    Images batch = t.all_images();
    batch.count = std::min(s.batch_size, s.first + s.count - first);
    if (s.order != nullptr) {
      batch.order = s.order + first;
    } else {
      batch.data = static_cast<const char*>(batch.data) + first * image_bytes;
    }
    char* const loss = s.losses + step * stored_bytes;
    bool refused = false;
    kernels[t.dtype].network.train(t.network,
                                   {.images = batch,
                                    .targets = wanted.from(s.order != nullptr ? 0 : first),
                                    .parameters = s.parameters,
                                    .seed = s.seeds == nullptr ? 0 : static_cast<uint64_t>(s.seeds[step]),
                                    .statistics = statistics,
                                    .options = s.options,
                                    .state = s.state,
                                    .steps = s.counts,
                                    .batch_loss = loss,
                                    .loss = wanted.tensors(),
                                    .refused = &refused});
    if (!refused) {
      running.update(statistics, s.parameters, s.member);
    } else if (!on_refusal(step, loss)) {
      return;
    }
  }
}

}  // namespace lenet_ext
