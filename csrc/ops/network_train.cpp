// The training step of the fused engine.
#include <optional>

#include "ops/loss_targets.h"
#include "ops/network_tensors.h"
#include "ops/registration.h"
#include "ops/running_statistics.h"

namespace lenet_ext {
namespace {

// Of what is written to.
void check_contiguous(const char* op, const Tensors& parameters) {
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(op, ": parameters must be contiguous");
  }
}

// What a step is given besides images and parameters, checked and dense.
struct StepTensors {
  StepTensors(const NetworkTensors& t, const Backend& kernels, const std::optional<Tensor>& wanted_order,
              const Tensors& all_state, const Tensor& all_options)
      : options(all_options) {
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
    check_sizes(op, "options", options, std::array{rows, options_per_parameter(*t.network)});
    options = dense(options);
    check_state(t, all_state);
  }

  Tensor options;
  std::optional<Tensor> order;
  std::vector<void*> state;
  float* steps = nullptr;

 private:
  // Of each name one tensor for all parameters, one after the other; an empty one if none has any. Behind
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
        count += size;
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
    check_sizes(op, "step", tensor, std::array{static_cast<int64_t>(t.parameters.size())});
    steps = static_cast<float*>(tensor.mutable_data_ptr());
  }
};

// One step of the program's optimizer for each batch of `batch_size` images, in the order of `order`; the
// loss of each. With batch_size 0 one step with all of them, and its loss as a 0-d tensor. Changes parameters
// and state. options: see TrainPass. loss_weight, loss_pos_weight: see LossTargets.
//
// On the CPU everything is checked before the first step but outputs that are no probabilities where the loss
// needs them: the losses end before the step that has one, and an error is raised if it is the first. On
// CUDA, where the host cannot look at targets, order and outputs without waiting for the device, a step with
// a bad one changes nothing and has the loss NaN.
Tensor network_train(const Tensor& images, const Tensor& targets, std::optional<Tensor> order,
                     Tensors parameters, Tensors state, const Tensor& options, Tensors counts,
                     std::optional<Tensor> seeds, std::string program, std::optional<Tensor> normalization,
                     int64_t batch_size, std::optional<Tensor> loss_weight,
                     std::optional<Tensor> loss_pos_weight) {
  const NetworkTensors t(images, parameters, program, normalization);
  const char* const op = t.op();
  check_contiguous(op, parameters);
  if (batch_size < 0) fail(op, ": batch_size must be at least 0, got ", batch_size);
  const Backend kernels(op, t.images);
  if (t.network->outputs.size() != 1) fail(op, ": the network has several outputs, a loss is of one");
  const LossTargets wanted(t, targets, loss_weight, loss_pos_weight);
  const StepTensors s(t, kernels, order, state, options);
  const RunningStatistics running(t, counts);
  if (kernels.on_host()) wanted.check_values(s.order);
  const int64_t count = s.order ? s.order->numel() : t.batch;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(op, ": the batch is empty");
  if (one_step) batch_size = count;
  const int64_t steps = count / batch_size + (count % batch_size != 0);
  if (steps > 0) t.check_statistics(count - (steps - 1) * batch_size);
  wanted.check_batches(count, batch_size);
  const int64_t* const numbers = seeds_of(t, seeds, steps);
  Tensor statistics = empty_of(std::array{t.network->statistics_before(t.network->stages.size())},
                               compute_type(t.dtype), t.images);
  Tensor losses = empty_of(one_step ? SizeList{} : SizeList{steps}, kScalarTypes[t.dtype], t.images);
  const int64_t stored_bytes = losses.element_size();
  const int64_t image_bytes = t.network->image_size() * t.images.element_size();
  bool refused = false;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t first = step * batch_size;
    Images batch = t.all_images();
    batch.count = std::min(batch_size, count - first);
    if (s.order) {
      batch.order = static_cast<const int64_t*>(s.order->const_data_ptr()) + first;
    } else {
      batch.data = static_cast<const char*>(batch.data) + first * image_bytes;
    }
    kernels[t.dtype].network.train(
        t.network, {.images = batch,
                    .targets = wanted.from(s.order ? 0 : first),
                    .parameters = t.pointers.data(),
                    .seed = numbers == nullptr ? 0 : static_cast<uint64_t>(numbers[step]),
                    .statistics = statistics.mutable_data_ptr(),
                    .options = static_cast<const double*>(s.options.const_data_ptr()),
                    .state = s.state.data(),
                    .steps = s.steps,
                    .batch_loss = static_cast<char*>(losses.mutable_data_ptr()) + step * stored_bytes,
                    .loss = wanted.tensors(),
                    .refused = &refused});
    if (!refused) {
      running.update(statistics.const_data_ptr());
      continue;
    }
    if (step == 0) {
      fail(op,
           ": binary cross entropy needs outputs between 0 and 1: end the network with a sigmoid, or use "
           "torch.nn.BCEWithLogitsLoss");
    }
    return torch::stable::narrow(losses, 0, 0, step);
  }
  return losses;
}

const Registration registration = {
    {"network_train(Tensor images, Tensor targets, Tensor? order, Tensor(a!)[] parameters, "
     "Tensor(b!)[] state, Tensor options, Tensor(c!)[] counts, Tensor? seeds, str program, Tensor? "
     "normalization, int batch_size, Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> Tensor",
     TORCH_BOX(&network_train)},
};

}  // namespace
}  // namespace lenet_ext
