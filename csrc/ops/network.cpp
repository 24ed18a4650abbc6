#include <optional>

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

// The values of `indices` must lie in [0, size).
void check_indices(const char* op, const char* name, const Tensor& indices, int64_t size) {
  const auto* values = static_cast<const int64_t*>(indices.const_data_ptr());
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= size) {
      fail_index(op, ": ", name, " ", values[i], " at position ", i, " is out of range [0, ", size, ")");
    }
  }
}

void check_int64_vector(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.scalar_type() != ScalarType::Long || tensor.sizes().size() != 1) {
    fail(op, ": ", name, " must be int64 with 1 dimension, got ",
         torch::headeronly::toString(tensor.scalar_type()), " ", to_string(sizes_of(tensor)));
  }
}

// What a step is given besides images and parameters, checked and dense.
struct StepTensors {
  StepTensors(const NetworkTensors& t, const Backend& kernels, const Tensor& all_targets,
              const std::optional<Tensor>& wanted_order, const Tensors& all_state, const Tensor& all_options)
      : targets(all_targets), options(all_options) {
    const char* const op = t.op();
    if (!t.network->loss || !t.network->optimizer) fail(op, ": program names no loss or no optimizer");
    check_targets(t);
    check_same_device(op, "images", t.images, "targets", targets);
    targets = dense(targets);
    if (takes_classes && kernels.on_host()) check_indices(op, "target", targets, t.network->output_sizes[0]);
    if (wanted_order) {
      check_int64_vector(op, "order", *wanted_order);
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

  Tensor targets, options;
  std::optional<Tensor> order;
  bool takes_classes;
  std::vector<void*> state;
  float* steps = nullptr;

 private:
  void check_targets(const NetworkTensors& t) {
    const char* const op = t.op();
    takes_classes = *t.network->loss == Loss::kCrossEntropy;
    if (takes_classes) {
      check_int64_vector(op, "targets", targets);
      check_sizes(op, "targets", targets, std::array{t.batch});
      if (t.network->output_sizes.size() != 1) {
        fail(op, ": cross entropy needs an output (N, classes), got sizes ",
             to_string(t.with_batch(t.network->output_sizes)));
      }
      return;
    }
    if (targets.scalar_type() != kScalarTypes[t.dtype]) {
      fail(op, ": targets must be ", torch::headeronly::toString(kScalarTypes[t.dtype]), ", got ",
           torch::headeronly::toString(targets.scalar_type()));
    }
    check_sizes(op, "targets", targets, t.with_batch(t.network->output_sizes));
  }

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
// mean loss of each. With batch_size 0 one step with all of them, and its loss as a 0-d tensor. Changes
// parameters and state. options: see TrainPass.
//
// On the CPU everything is checked before the first step. On CUDA, where the host cannot look at targets and
// order without waiting for the device, a step that holds one out of range changes nothing and has the loss
// NaN.
Tensor network_train(const Tensor& images, const Tensor& targets, std::optional<Tensor> order,
                     Tensors parameters, Tensors state, const Tensor& options, std::string program,
                     std::optional<Tensor> normalization, int64_t batch_size) {
  const NetworkTensors t(images, parameters, program, normalization);
  const char* const op = t.op();
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(op, ": parameters must be contiguous");
  }
  if (batch_size < 0) fail(op, ": batch_size must be at least 0, got ", batch_size);
  const Backend kernels(op, t.images);
  const StepTensors s(t, kernels, targets, order, state, options);
  const int64_t count = s.order ? s.order->numel() : t.batch;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(op, ": the batch is empty");
  if (one_step) batch_size = count;
  const int64_t steps = count / batch_size + (count % batch_size != 0);
  Tensor losses = empty_of(one_step ? SizeList{} : SizeList{steps}, kScalarTypes[t.dtype], t.images);
  const int64_t stored_bytes = losses.element_size();
  const int64_t image_bytes = t.network->image_size() * t.images.element_size();
  const int64_t target_bytes =
      s.takes_classes ? int64_t{sizeof(int64_t)} : t.network->output_size() * stored_bytes;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t first = step * batch_size;
    Images batch = t.all_images();
    batch.count = std::min(batch_size, count - first);
    const auto* target = static_cast<const char*>(s.targets.const_data_ptr());
    if (s.order) {
      batch.order = static_cast<const int64_t*>(s.order->const_data_ptr()) + first;
    } else {
      batch.data = static_cast<const char*>(batch.data) + first * image_bytes;
      target += first * target_bytes;
    }
    kernels[t.dtype].network.train(
        t.network, {.images = batch,
                    .targets = target,
                    .parameters = t.pointers.data(),
                    .options = static_cast<const double*>(s.options.const_data_ptr()),
                    .state = s.state.data(),
                    .steps = s.steps,
                    .mean_loss = static_cast<char*>(losses.mutable_data_ptr()) + step * stored_bytes});
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
     "Tensor(b!)[] state, Tensor options, str program, Tensor? normalization, int batch_size) -> Tensor",
     TORCH_BOX(&network_train)},
};

}  // namespace
}  // namespace lenet_ext
