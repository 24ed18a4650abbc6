#include <optional>

#include "ops/loss_targets.h"
#include "ops/network_tensors.h"
#include "ops/registration.h"
#include "ops/running_statistics.h"

namespace lenet_ext {
namespace {

ScalarType compute_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

Tensor empty_of(Sizes sizes, ScalarType type, const Tensor& like) {
  const auto dtype = static_cast<int32_t>(torch::stable::detail::from(type));
  return empty(dtype, sizes, like, Format::kContiguous);
}

Tensors empty_outputs(const NetworkTensors& t) {
  Tensors outputs;
  for (const NetworkOutput& output : t.network->outputs) {
    outputs.push_back(empty_of(t.with_batch(output.sizes), kScalarTypes[t.dtype], t.images));
  }
  return outputs;
}

std::vector<void*> pointers_of(const Tensors& tensors) {
  std::vector<void*> pointers;
  pointers.reserve(tensors.size());
  for (const Tensor& tensor : tensors) pointers.push_back(tensor.mutable_data_ptr());
  return pointers;
}

// The seeds of `steps` passes, on the host; null where the network draws nothing.
const int64_t* seeds_of(const NetworkTensors& t, const std::optional<Tensor>& seeds, int64_t steps) {
  if (!t.network->has_dropout()) return nullptr;
  if (!seeds) fail(t.op(), ": the network has dropout and needs a seed");
  if (seeds->scalar_type() != ScalarType::Long || !is_on_cpu(*seeds) || !seeds->is_contiguous()) {
    fail(t.op(), ": seeds must be int64, contiguous, on the CPU");
  }
  check_sizes(t.op(), "seeds", *seeds, std::array{steps});
  return static_cast<const int64_t*>(seeds->const_data_ptr());
}
uint64_t seed_of(const NetworkTensors& t, const std::optional<Tensor>& seed) {
  const int64_t* const seeds = seeds_of(t, seed, 1);
  return seeds == nullptr ? 0 : static_cast<uint64_t>(seeds[0]);
}

// Inference.
Tensors network(const Tensor& input, Tensors parameters, std::string program,
                std::optional<Tensor> normalization, std::optional<Tensor> seed) {
  const NetworkTensors t(input, parameters, program, normalization, /*keeps=*/false);
  t.check_statistics();
  const Backend kernels(t.op(), t.images);
  const uint64_t number = seed_of(t, seed);
  const Tensors outputs = empty_outputs(t);
  if (t.batch > 0) {
    kernels[t.dtype].network.forward(t.network, {.images = t.all_images(),
                                                 .parameters = t.pointers.data(),
                                                 .seed = number,
                                                 .outputs = pointers_of(outputs).data(),
                                                 .saved = nullptr,
                                                 .argmax = nullptr});
  }
  return outputs;
}

// (outputs, saved, argmax): the last two for network_backward.
std::tuple<Tensors, Tensor, Tensor> network_forward(const Tensor& input, Tensors parameters,
                                                    std::string program, std::optional<Tensor> normalization,
                                                    std::optional<Tensor> seed) {
  const NetworkTensors t(input, parameters, program, normalization);
  t.check_statistics();
  const Backend kernels(t.op(), t.images);
  const uint64_t number = seed_of(t, seed);
  const size_t stages = t.network->stages.size();
  const Tensors outputs = empty_outputs(t);
  Tensor saved = empty_of(std::array{t.network->saved_size(t.batch)}, compute_type(t.dtype), t.images);
  Tensor argmax =
      empty_of(std::array{t.batch * t.network->argmax_before(stages)}, ScalarType::Byte, t.images);
  int64_t written = 0;
  for (const Stage& stage : t.network->stages) written += stage.argmax_bytes() * t.batch;
  // The bytes up to whole words are written by no kernel.
  if (written < argmax.numel()) set_to_zero(argmax);
  if (t.batch > 0) {
    kernels[t.dtype].network.forward(t.network, {.images = t.all_images(),
                                                 .parameters = t.pointers.data(),
                                                 .seed = number,
                                                 .outputs = pointers_of(outputs).data(),
                                                 .saved = saved.mutable_data_ptr(),
                                                 .argmax = static_cast<uint8_t*>(argmax.mutable_data_ptr())});
  }
  return {outputs, saved, argmax};
}

// The gradients of the input and of all parameters; empty ones where they are not asked for.
Tensors network_backward(Tensors grad_outputs, const Tensor& input, Tensors parameters, const Tensor& saved,
                         const Tensor& argmax, std::string program, std::optional<Tensor> normalization,
                         std::optional<Tensor> seed, bool input_grad, bool parameter_grads) {
  const NetworkTensors t(input, parameters, program, normalization);
  const char* const op = t.op();
  const Backend kernels(op, t.images);
  const uint64_t number = seed_of(t, seed);
  const size_t stages = t.network->stages.size(), outputs = t.network->outputs.size();
  if (grad_outputs.size() != outputs) {
    fail(op, ": there must be ", outputs, " gradients of outputs, got ", grad_outputs.size());
  }
  for (size_t k = 0; k < outputs; ++k) {
    if (dtype_of(op, "grad_output", grad_outputs[k]) != t.dtype) {
      fail(op, ": grad_output must have the dtype of the parameters");
    }
    check_sizes(op, "grad_output", grad_outputs[k], t.with_batch(t.network->outputs[k].sizes));
    check_same_device(op, "input", t.images, "grad_output", grad_outputs[k]);
    grad_outputs[k] = dense(grad_outputs[k]);
  }
  if (saved.scalar_type() != compute_type(t.dtype) || argmax.scalar_type() != ScalarType::Byte) {
    fail(op, ": saved and argmax must be those of network_forward");
  }
  check_sizes(op, "saved", saved, std::array{t.network->saved_size(t.batch)});
  check_sizes(op, "argmax", argmax, std::array{t.batch * t.network->argmax_before(stages)});
  for (const Tensor* tensor : {&saved, &argmax}) {
    check_same_device(op, "input", t.images, "saved or argmax", *tensor);
  }
  if (input_grad && t.normalization) fail(op, ": uint8 images have no gradient");
  const Tensor values = dense(saved), positions = dense(argmax);
  std::vector<const void*> output_pointers;
  for (const Tensor& grad : grad_outputs) output_pointers.push_back(grad.const_data_ptr());
  Tensors grads;
  grads.push_back(empty_of(input_grad ? t.with_batch(t.network->image_sizes) : SizeList{0},
                           kScalarTypes[t.dtype], t.images));
  std::vector<void*> pointers;
  for (size_t i = 0; parameter_grads && i < t.parameters.size(); ++i) {
    grads.push_back(empty(sizes_of(t.parameters[i]), t.parameters[i]));
    pointers.push_back(grads.back().mutable_data_ptr());
    if (t.batch == 0 || t.network->parameter_readers[i] != 1) set_to_zero(grads.back());
  }
  if (t.batch > 0) {
    kernels[t.dtype].network.backward(t.network,
                                      {.images = t.all_images(),
                                       .parameters = t.pointers.data(),
                                       .seed = number,
                                       .grad_outputs = output_pointers.data(),
                                       .saved = values.const_data_ptr(),
                                       .argmax = static_cast<const uint8_t*>(positions.const_data_ptr()),
                                       .grad_input = input_grad ? grads[0].mutable_data_ptr() : nullptr,
                                       .grad_parameters = parameter_grads ? pointers.data() : nullptr});
  }
  return grads;
}

// After a forward pass in training mode, whose `saved` this is: the running statistics, which are among the
// parameters, take their part of those of the batch, and `counts`, the batches that each batch norm with
// running statistics has seen, grow by 1.
void network_statistics(const Tensor& saved, const Tensor& input, Tensors parameters, Tensors counts,
                        std::string program, std::optional<Tensor> normalization) {
  const NetworkTensors t(input, parameters, program, normalization);
  check_sizes(t.op(), "saved", saved, std::array{t.network->saved_size(t.batch)});
  if (saved.scalar_type() != compute_type(t.dtype)) fail(t.op(), ": saved must be that of network_forward");
  const RunningStatistics running(t, parameters, counts);
  const Tensor values = dense(saved);
  const int64_t first = t.batch * t.network->values_before(t.network->stages.size());
  if (t.batch > 0) {
    running.update(static_cast<const char*>(values.const_data_ptr()) + first * values.element_size());
  }
}

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

// No batch of an epoch may be too small for a batch norm.
void check_last_batch(const NetworkTensors& t, int64_t count, int64_t batch_size) {
  for (const Stage& stage : t.network->stages) {
    if (!stage.needs_statistics() || stage.input_size != stage.channels() || count == 0) continue;
    const int64_t least = count % batch_size == 0 ? batch_size : count % batch_size;
    if (least < 2) {
      fail(stage.name, ": batch_norm needs more than one value of each channel in training mode, and the ",
           "smallest batch has one image");
    }
  }
}

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
  const RunningStatistics running(t, parameters, counts);
  if (kernels.on_host()) wanted.check_values(s.order);
  const int64_t count = s.order ? s.order->numel() : t.batch;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(op, ": the batch is empty");
  if (one_step) batch_size = count;
  const int64_t steps = count / batch_size + (count % batch_size != 0);
  check_last_batch(t, count, batch_size);
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
    {"network(Tensor input, Tensor[] parameters, str program, Tensor? normalization, Tensor? seed) -> "
     "Tensor[]",
     TORCH_BOX(&network)},
    {"network_forward(Tensor input, Tensor[] parameters, str program, Tensor? normalization, Tensor? seed) "
     "-> "
     "(Tensor[], Tensor, Tensor)",
     TORCH_BOX(&network_forward)},
    {"network_backward(Tensor[] grad_outputs, Tensor input, Tensor[] parameters, Tensor saved, Tensor "
     "argmax, str program, Tensor? normalization, Tensor? seed, bool input_grad, bool parameter_grads) -> "
     "Tensor[]",
     TORCH_BOX(&network_backward)},
    {"network_statistics(Tensor saved, Tensor input, Tensor(a!)[] parameters, Tensor(b!)[] counts, str "
     "program, Tensor? normalization) -> ()",
     TORCH_BOX(&network_statistics)},
    {"network_train(Tensor images, Tensor targets, Tensor? order, Tensor(a!)[] parameters, "
     "Tensor(b!)[] state, Tensor options, Tensor(c!)[] counts, Tensor? seeds, str program, Tensor? "
     "normalization, int batch_size, Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> Tensor",
     TORCH_BOX(&network_train)},
};

}  // namespace
}  // namespace lenet_ext
