// Training steps as operators take them: their tensors, checked, and the loop over batches.
#pragma once

#include <optional>

#include "ops/loss_targets.h"
#include "ops/network_tensors.h"
#include "ops/optimizer_tensors.h"
#include "ops/running_statistics.h"

namespace lenet_ext {

// Of what is written to.
inline void check_contiguous(const char* op, const Tensors& parameters) {
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(op, ": parameters must be contiguous");
  }
}

// The numbers of images that steps take, checked; nothing where they take all in turn.
inline std::optional<Tensor> checked_order(const NetworkTensors& t, const Backend& kernels,
                                           const std::optional<Tensor>& wanted) {
  if (!wanted) return std::nullopt;
  check_int64(t.op(), "order", *wanted, 1);
  check_same_device(t.op(), "images", t.images, "order", *wanted);
  Tensor order = dense(*wanted);
  if (kernels.on_host()) check_indices(t.op(), "order", order, t.batch);
  return order;
}
inline const int64_t* numbers_of(const std::optional<Tensor>& order) {
  return order ? static_cast<const int64_t*>(order->const_data_ptr()) : nullptr;
}

// The optimizer's tensors for steps of the program's. members: of an ensemble.
inline OptimizerTensors optimizer_of(const NetworkTensors& t, const Tensors& state, const Tensor& options,
                                     std::optional<int64_t> members = std::nullopt) {
  if (!t.network->optimizer) fail(t.op(), ": program names no optimizer");
  const bool any = !t.parameters.empty();
  return {t.op(),  *t.network, any ? "a parameter" : "images", any ? t.parameters[0] : t.images, state,
          options, members};
}

// The steps of one network, or of one member of an ensemble; pointers are to what is its own.
struct Steps {
  int64_t first, count;  // of the images, or of the order, which may be null
  const int64_t* order;
  int64_t batch_size;
  void* const* parameters;
  void* const* state;
  float* counts;  // of the steps of each parameter
  const double* options;
  const int64_t* seeds = nullptr;  // of each step, or null
  char* losses = nullptr;          // of each step
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
