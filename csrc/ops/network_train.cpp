#include "ops/network_train.h"

#include "ops/registration.h"
#include "ops/train_steps.h"

namespace lenet_ext {
Tensor network_train(const Tensor& images, const Tensor& targets, const std::optional<Tensor>& order,
                     const Tensors& parameters, const Tensors& state, const Tensor& options,
                     const Tensors& counts, const std::optional<Tensor>& seeds, std::string_view program,
                     const std::optional<Tensor>& normalization, int64_t batch_size,
                     const std::optional<Tensor>& loss_weight, const std::optional<Tensor>& loss_pos_weight) {
  const NetworkTensors t(images, parameters, program, normalization);
  const char* const op = t.op();
  check_contiguous(op, parameters);
  if (batch_size < 0) fail(op, ": batch_size must be at least 0, got ", batch_size);
  const Backend kernels(op, t.images);
  const LossTargets wanted(t, targets, loss_weight, loss_pos_weight);
  const std::optional<Tensor> numbers = checked_order(t, kernels, order);
  const OptimizerTensors optimizer = optimizer_of(t, state, options);
  const RunningStatistics running(t, counts);
  if (kernels.on_host()) wanted.check_values(numbers);
  const int64_t count = numbers ? numbers->numel() : t.batch;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(op, ": the batch is empty");
  if (one_step) batch_size = count;
  Steps s{.first = 0,
          .count = count,
          .order = numbers_of(numbers),
          .batch_size = batch_size,
          .parameters = t.pointers.data(),
          .state = optimizer.state(),
          .counts = optimizer.steps(),
          .options = optimizer.options()};
  const int64_t steps = s.steps();
  if (steps > 0) t.check_statistics(count - (steps - 1) * batch_size);
  wanted.check_batches(count, batch_size);
  s.seeds = seeds_of(t, seeds, std::array{steps});
  const int64_t statistics_size = t.network->statistics_before(t.network->stages.size());
  std::optional<Tensor> statistics;  // most networks have none, and an empty tensor takes as long as any
  if (statistics_size > 0)
    statistics = empty_of(std::array{statistics_size}, compute_type(t.dtype), t.images);
  Tensor losses = empty_of(one_step ? SizeList{} : SizeList{steps}, kScalarTypes[t.dtype], t.images);
  s.losses = static_cast<char*>(losses.mutable_data_ptr());
  int64_t taken = steps;
  void* const statistics_memory = statistics ? statistics->mutable_data_ptr() : nullptr;
  take_steps(t, kernels, wanted, running, s, statistics_memory, [&](int64_t step, void*) {
    taken = step;
    return false;
  });
  if (taken == steps) return losses;
  if (taken == 0) wanted.refuse_outputs();
  return torch::stable::narrow(losses, 0, 0, taken);
}

namespace {

Tensor network_train_operator(const Tensor& images, const Tensor& targets, std::optional<Tensor> order,
                              Tensors parameters, Tensors state, const Tensor& options, Tensors counts,
                              std::optional<Tensor> seeds, const Text& program,
                              std::optional<Tensor> normalization, int64_t batch_size,
                              std::optional<Tensor> loss_weight, std::optional<Tensor> loss_pos_weight) {
  return network_train(images, targets, order, parameters, state, options, counts, seeds, program,
                       normalization, batch_size, loss_weight, loss_pos_weight);
}

const Registration registration = {
    {"network_train(Tensor images, Tensor targets, Tensor? order, Tensor(a!)[] parameters, "
     "Tensor(b!)[] state, Tensor options, Tensor(c!)[] counts, Tensor? seeds, str program, Tensor? "
     "normalization, int batch_size, Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> Tensor",
     TORCH_BOX(&network_train_operator)},
};

}  // namespace
}  // namespace lenet_ext
