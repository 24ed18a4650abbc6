#include <optional>

#include "ops/loss_targets.h"
#include "ops/network_tensors.h"
#include "ops/registration.h"

namespace lenet_ext {
namespace {

ScalarType compute_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

Tensor empty_of(Sizes sizes, ScalarType type, const Tensor& like) {
  const auto dtype = static_cast<int32_t>(torch::stable::detail::from(type));
  return empty(dtype, sizes, like, Format::kContiguous);
}

Tensor empty_output(const NetworkTensors& t) {
  return empty_of(t.with_batch(t.network->output_sizes), kScalarTypes[t.dtype], t.images);
}

// Inference.
Tensor network(const Tensor& input, Tensors parameters, std::string program,
               std::optional<Tensor> normalization) {
  const NetworkTensors t(input, parameters, program, normalization);
  const Backend kernels(t.op(), t.images);
  Tensor output = empty_output(t);
  if (t.batch > 0) {
    kernels[t.dtype].network.forward(t.network, {.images = t.all_images(),
                                                 .parameters = t.pointers.data(),
                                                 .output = output.mutable_data_ptr(),
                                                 .saved = nullptr,
                                                 .argmax = nullptr});
  }
  return output;
}

// (output, saved, argmax): the last two for network_backward.
std::tuple<Tensor, Tensor, Tensor> network_forward(const Tensor& input, Tensors parameters,
                                                   std::string program, std::optional<Tensor> normalization) {
  const NetworkTensors t(input, parameters, program, normalization);
  const Backend kernels(t.op(), t.images);
  const size_t stages = t.network->stages.size();
  Tensor output = empty_output(t);
  Tensor saved =
      empty_of(std::array{t.batch * t.network->values_before(stages)}, compute_type(t.dtype), t.images);
  Tensor argmax =
      empty_of(std::array{t.batch * t.network->argmax_before(stages)}, ScalarType::Byte, t.images);
  int64_t written = 0;
  for (const Stage& stage : t.network->stages) written += stage.argmax_bytes() * t.batch;
  // The bytes up to whole words are written by no kernel.
  if (written < argmax.numel()) set_to_zero(argmax);
  if (t.batch > 0) {
    kernels[t.dtype].network.forward(t.network, {.images = t.all_images(),
                                                 .parameters = t.pointers.data(),
                                                 .output = output.mutable_data_ptr(),
                                                 .saved = saved.mutable_data_ptr(),
                                                 .argmax = static_cast<uint8_t*>(argmax.mutable_data_ptr())});
  }
  return {output, saved, argmax};
}

// The gradients of the input and of all parameters; empty ones where they are not asked for.
Tensors network_backward(const Tensor& grad_output, const Tensor& input, Tensors parameters,
                         const Tensor& saved, const Tensor& argmax, std::string program,
                         std::optional<Tensor> normalization, bool input_grad, bool parameter_grads) {
  const NetworkTensors t(input, parameters, program, normalization);
  const char* const op = t.op();
  const Backend kernels(op, t.images);
  const size_t stages = t.network->stages.size();
  if (dtype_of(op, "grad_output", grad_output) != t.dtype) {
    fail(op, ": grad_output must have the dtype of the parameters");
  }
  check_sizes(op, "grad_output", grad_output, t.with_batch(t.network->output_sizes));
  if (saved.scalar_type() != compute_type(t.dtype) || argmax.scalar_type() != ScalarType::Byte) {
    fail(op, ": saved and argmax must be those of network_forward");
  }
  check_sizes(op, "saved", saved, std::array{t.batch * t.network->values_before(stages)});
  check_sizes(op, "argmax", argmax, std::array{t.batch * t.network->argmax_before(stages)});
  for (const Tensor* tensor : {&grad_output, &saved, &argmax}) {
    check_same_device(op, "input", t.images, "grad_output, saved or argmax", *tensor);
  }
  if (input_grad && t.normalization) fail(op, ": uint8 images have no gradient");
  const Tensor gy = dense(grad_output), values = dense(saved), positions = dense(argmax);
  Tensors grads;
  grads.push_back(empty_of(input_grad ? t.with_batch(t.network->image_sizes) : SizeList{0},
                           kScalarTypes[t.dtype], t.images));
  std::vector<void*> pointers;
  for (size_t i = 0; parameter_grads && i < t.parameters.size(); ++i) {
    grads.push_back(empty(sizes_of(t.parameters[i]), t.parameters[i]));
    pointers.push_back(grads.back().mutable_data_ptr());
  }
  if (t.batch > 0) {
    kernels[t.dtype].network.backward(t.network,
                                      {.images = t.all_images(),
                                       .parameters = t.pointers.data(),
                                       .grad_output = gy.const_data_ptr(),
                                       .saved = values.const_data_ptr(),
                                       .argmax = static_cast<const uint8_t*>(positions.const_data_ptr()),
                                       .grad_input = input_grad ? grads[0].mutable_data_ptr() : nullptr,
                                       .grad_parameters = parameter_grads ? pointers.data() : nullptr});
  } else {
    for (size_t i = 1; i < grads.size(); ++i) set_to_zero(grads[i]);
  }
  return grads;
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

 private:
  // Of each name one tensor for all parameters, one after the other; an empty one if none has any.
  void check_state(const NetworkTensors& t, const Tensors& tensors) {
    const char* const op = t.op();
    const std::span names = kOptimizers[static_cast<int>(*t.network->optimizer)].state;
    if (tensors.size() != names.size()) {
      fail(op, ": the state must have ", names.size(), " tensors, got ", tensors.size());
    }
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
                     Tensors parameters, Tensors state, const Tensor& options, std::string program,
                     std::optional<Tensor> normalization, int64_t batch_size,
                     std::optional<Tensor> loss_weight, std::optional<Tensor> loss_pos_weight) {
  const NetworkTensors t(images, parameters, program, normalization);
  const char* const op = t.op();
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(op, ": parameters must be contiguous");
  }
  if (batch_size < 0) fail(op, ": batch_size must be at least 0, got ", batch_size);
  const Backend kernels(op, t.images);
  const LossTargets wanted(t, targets, loss_weight, loss_pos_weight);
  const StepTensors s(t, kernels, order, state, options);
  if (kernels.on_host()) wanted.check_values(s.order);
  const int64_t count = s.order ? s.order->numel() : t.batch;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(op, ": the batch is empty");
  if (one_step) batch_size = count;
  const int64_t steps = count / batch_size + (count % batch_size != 0);
  wanted.check_batches(count, batch_size);
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
                    .options = static_cast<const double*>(s.options.const_data_ptr()),
                    .state = s.state.data(),
                    .batch_loss = static_cast<char*>(losses.mutable_data_ptr()) + step * stored_bytes,
                    .loss = wanted.tensors(),
                    .refused = &refused});
    if (!refused) continue;
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
    {"network(Tensor input, Tensor[] parameters, str program, Tensor? normalization) -> Tensor",
     TORCH_BOX(&network)},
    {"network_forward(Tensor input, Tensor[] parameters, str program, Tensor? normalization) -> "
     "(Tensor, Tensor, Tensor)",
     TORCH_BOX(&network_forward)},
    {"network_backward(Tensor grad_output, Tensor input, Tensor[] parameters, Tensor saved, Tensor "
     "argmax, str program, Tensor? normalization, bool input_grad, bool parameter_grads) -> Tensor[]",
     TORCH_BOX(&network_backward)},
    {"network_train(Tensor images, Tensor targets, Tensor? order, Tensor(a!)[] parameters, "
     "Tensor(b!)[] state, Tensor options, str program, Tensor? normalization, int batch_size, "
     "Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> Tensor",
     TORCH_BOX(&network_train)},
};

}  // namespace
}  // namespace lenet_ext
