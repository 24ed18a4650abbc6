#include <optional>

#include "ops/network_tensors.h"
#include "ops/registration.h"
#include "ops/running_statistics.h"

namespace lenet_ext {
namespace {

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

uint64_t seed_of(const NetworkTensors& t, const std::optional<Tensor>& seed) {
  const int64_t* const seeds = seeds_of(t, seed, std::array{int64_t{1}});
  return seeds == nullptr ? 0 : static_cast<uint64_t>(seeds[0]);
}

// Inference.
Tensors network(const Tensor& input, Tensors parameters, const Text& program,
                std::optional<Tensor> normalization, std::optional<Tensor> seed) {
  const NetworkTensors t(input, parameters, program, normalization, /*keeps=*/false);
  t.check_statistics(t.batch);
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
                                                    const Text& program, std::optional<Tensor> normalization,
                                                    std::optional<Tensor> seed) {
  const NetworkTensors t(input, parameters, program, normalization);
  t.check_statistics(t.batch);
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
                         const Tensor& argmax, const Text& program, std::optional<Tensor> normalization,
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
                        const Text& program, std::optional<Tensor> normalization) {
  const NetworkTensors t(input, parameters, program, normalization);
  if (!Backend(t.op(), t.images).on_host())
    fail(t.op(), ": on CUDA no batch_norm uses statistics of a batch");
  check_sizes(t.op(), "saved", saved, std::array{t.network->saved_size(t.batch)});
  if (saved.scalar_type() != compute_type(t.dtype)) fail(t.op(), ": saved must be that of network_forward");
  const RunningStatistics running(t, counts);
  const Tensor values = dense(saved);
  const int64_t first = t.batch * t.network->values_before(t.network->stages.size());
  const auto* const of_batch =
      static_cast<const char*>(values.const_data_ptr()) + first * values.element_size();
  running.update(t.batch > 0 ? of_batch : nullptr, t.pointers.data());
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
};

}  // namespace
}  // namespace lenet_ext
