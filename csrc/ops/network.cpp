#include <torch/csrc/stable/library.h>

#include <optional>

#include "ops/network_tensors.h"

namespace lenet_ext {
namespace {

SizeList with_batch(int64_t batch, SizeList sizes) {
  sizes.insert(sizes.begin(), batch);
  return sizes;
}

ScalarType compute_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

ScalarType stored_type(DType dtype) {
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16,
                                   ScalarType::Half};
  return kTypes[static_cast<int>(dtype)];
}

Tensor empty_of(Sizes sizes, ScalarType type, const Tensor& like) {
  const int32_t dtype = type == ScalarType::Float      ? aoti_torch_dtype_float32()
                        : type == ScalarType::Double   ? aoti_torch_dtype_float64()
                        : type == ScalarType::BFloat16 ? aoti_torch_dtype_bfloat16()
                        : type == ScalarType::Half     ? aoti_torch_dtype_float16()
                                                       : aoti_torch_dtype_uint8();
  return empty(dtype, sizes, like, Format::kContiguous);
}

Tensor empty_output(const NetTensors& t) {
  return empty_of(with_batch(t.shape.batch, t.shape.output_sizes), stored_type(t.dtype), t.images);
}

// Inference.
Tensor net(const Tensor& input, Tensors parameters, SizeList program, std::optional<Tensor> normalization) {
  const NetTensors t = check_net("net", input, parameters, program, normalization);
  const Backend kernels("net", t.images);
  Tensor output = empty_output(t);
  if (t.shape.batch > 0) {
    kernels[t.dtype].net_forward(
        t.shape, {t.net_images(), t.pointers.data(), output.mutable_data_ptr(), nullptr, nullptr});
  }
  return output;
}

// (output, saved, taps): the last two for net_backward.
std::tuple<Tensor, Tensor, Tensor> net_forward(const Tensor& input, Tensors parameters, SizeList program,
                                               std::optional<Tensor> normalization) {
  const NetTensors t = check_net("net_forward", input, parameters, program, normalization);
  const Backend kernels("net_forward", t.images);
  const int64_t batch = t.shape.batch, stages = static_cast<int64_t>(t.shape.stages.size());
  Tensor output = empty_output(t);
  Tensor saved = empty_of(std::array{batch * t.shape.saved_elements()}, compute_type(t.dtype), t.images);
  Tensor taps = empty_of(std::array{t.shape.tap_offset(stages, batch)}, ScalarType::Byte, t.images);
  int64_t written = 0;
  for (const StageShape& stage : t.shape.stages) written += stage.tap_bytes() * batch;
  // The bytes that round the taps of a stage to whole words are written by no kernel.
  if (written < taps.numel()) torch::stable::zero_(taps);
  if (batch > 0) {
    kernels[t.dtype].net_forward(
        t.shape, {t.net_images(), t.pointers.data(), output.mutable_data_ptr(), saved.mutable_data_ptr(),
                  static_cast<uint8_t*>(taps.mutable_data_ptr())});
  }
  return {output, saved, taps};
}

// The gradients of the input (empty unless wanted) and of the parameters (none unless wanted).
Tensors net_backward(const Tensor& grad_output, const Tensor& input, Tensors parameters, const Tensor& saved,
                     const Tensor& taps, SizeList program, std::optional<Tensor> normalization,
                     bool input_grad, bool parameter_grads) {
  constexpr const char* kOp = "net_backward";
  const NetTensors t = check_net(kOp, input, parameters, program, normalization);
  const Backend kernels(kOp, t.images);
  const int64_t batch = t.shape.batch;
  if (dtype_of(kOp, "grad_output", grad_output) != t.dtype) {
    fail(kOp, ": grad_output must have the dtype of the parameters");
  }
  check_sizes(kOp, "grad_output", grad_output, with_batch(batch, t.shape.output_sizes));
  if (saved.scalar_type() != compute_type(t.dtype) || taps.scalar_type() != ScalarType::Byte) {
    fail(kOp, ": saved and taps must be those of net_forward");
  }
  check_sizes(kOp, "saved", saved, std::array{batch * t.shape.saved_elements()});
  check_sizes(kOp, "taps", taps, std::array{t.shape.tap_offset(t.shape.stages.size(), batch)});
  for (const Tensor* tensor : {&grad_output, &saved, &taps}) {
    check_same_device(kOp, "images", t.images, "grad_output, saved or taps", *tensor);
  }
  if (input_grad && t.normalization) fail(kOp, ": uint8 images have no gradient");
  const Tensor gy = dense(grad_output), values = dense(saved), positions = dense(taps);
  Tensors grads;
  grads.push_back(empty_of(input_grad ? with_batch(batch, t.shape.image_sizes) : SizeList{0},
                           stored_type(t.dtype), t.images));
  std::vector<void*> pointers;
  for (size_t i = 0; parameter_grads && i < t.parameters.size(); ++i) {
    grads.push_back(empty(sizes_of(t.parameters[i]), t.parameters[i]));
    pointers.push_back(grads.back().mutable_data_ptr());
  }
  if (batch > 0) {
    kernels[t.dtype].net_backward(
        t.shape,
        {t.net_images(), t.pointers.data(), gy.const_data_ptr(), values.const_data_ptr(),
         static_cast<const uint8_t*>(positions.const_data_ptr()),
         input_grad ? grads[0].mutable_data_ptr() : nullptr, parameter_grads ? pointers.data() : nullptr});
  } else {
    for (size_t i = 1; i < grads.size(); ++i) torch::stable::zero_(grads[i]);
  }
  return grads;
}

// The values of `indices` must lie in [0, size).
void check_indices(const char* op, const char* name, const Tensor& indices, int64_t size) {
  const auto* values = static_cast<const int64_t*>(indices.const_data_ptr());
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= size) {
      fail(op, ": ", name, " ", values[i], " at position ", i, " is out of range [0, ", size, ")");
    }
  }
}

void check_int64_vector(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.scalar_type() != ScalarType::Long || tensor.sizes().size() != 1) {
    fail(op, ": ", name, " must be int64 with 1 dimension, got ",
         torch::headeronly::toString(tensor.scalar_type()), " ", to_string(sizes_of(tensor)));
  }
}

// One step of SGD for each batch of `batch_size` images, in the order of `order`; the mean loss of each. With
// batch_size 0 one step with all of them, and its loss as a 0-d tensor. Changes parameters and buffers.
//
// On the CPU everything is checked before the first step. On CUDA, where the host cannot look at targets and
// order without waiting for the device, a step that holds one out of range changes nothing and has the loss
// NaN. device_lr: 0-d float64 on CUDA, read by the kernels in place of lr.
Tensor net_train(const Tensor& images, const Tensor& targets, std::optional<Tensor> order, Tensors parameters,
                 std::optional<Tensor> buffers, SizeList program, std::optional<Tensor> normalization,
                 int64_t batch_size, double lr, double momentum, double weight_decay, bool nesterov,
                 int64_t loss, std::optional<Tensor> device_lr) {
  constexpr const char* kOp = "net_train";
  NetTensors t = check_net(kOp, images, parameters, program, normalization);
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_contiguous()) fail(kOp, ": parameters must be contiguous");
  }
  const int64_t available = t.shape.batch;
  if (loss != 0 && loss != 1) fail(kOp, ": loss must be 0 (cross entropy) or 1 (mean squared error)");
  if (batch_size < 0) fail(kOp, ": batch_size must be at least 0, got ", batch_size);
  const bool classes = loss == static_cast<int64_t>(Loss::kCrossEntropy);
  if (classes) {
    check_int64_vector(kOp, "targets", targets);
    check_sizes(kOp, "targets", targets, std::array{available});
    if (t.shape.output_sizes.size() != 1) {
      fail(kOp, ": cross entropy needs an output (N, classes), got sizes ",
           to_string(with_batch(available, t.shape.output_sizes)));
    }
  } else {
    if (targets.scalar_type() != stored_type(t.dtype)) {
      fail(kOp, ": targets must be ", torch::headeronly::toString(stored_type(t.dtype)), ", got ",
           torch::headeronly::toString(targets.scalar_type()));
    }
    check_sizes(kOp, "targets", targets, with_batch(available, t.shape.output_sizes));
  }
  const Backend kernels(kOp, t.images);
  check_same_device(kOp, "images", t.images, "targets", targets);
  const Tensor wanted = dense(targets);
  if (classes && kernels.on_host()) check_indices(kOp, "target", wanted, t.shape.output_sizes[0]);
  std::optional<Tensor> indices;
  if (order) {
    check_int64_vector(kOp, "order", *order);
    check_same_device(kOp, "images", t.images, "order", *order);
    indices = dense(*order);
    if (kernels.on_host()) check_indices(kOp, "order", *indices, available);
  }
  if (device_lr) {
    if (device_lr->scalar_type() != ScalarType::Double || device_lr->numel() != 1) {
      fail(kOp, ": device_lr must be one float64 number");
    }
    check_same_device(kOp, "images", t.images, "device_lr", *device_lr);
    if (kernels.on_host()) fail(kOp, ": device_lr is for CUDA only");
  }
  if (buffers) {
    check_same_device(kOp, "images", t.images, "buffers", *buffers);
    check_sizes(kOp, "buffers", *buffers, std::array{t.shape.parameter_count()});
    if (buffers->scalar_type() != stored_type(t.dtype) || !buffers->is_contiguous()) {
      fail(kOp, ": buffers must be contiguous, of the dtype of the parameters");
    }
  }
  if (!buffers && momentum != 0) fail(kOp, ": momentum needs buffers");
  const int64_t count = indices ? indices->numel() : available;
  const bool one_step = batch_size == 0;
  if (one_step && count == 0) fail(kOp, ": the batch is empty");
  if (one_step) batch_size = count;
  const int64_t steps = count / batch_size + (count % batch_size != 0);
  Tensor losses = empty_of(one_step ? SizeList{} : SizeList{steps}, stored_type(t.dtype), t.images);
  const int64_t stored_bytes = losses.element_size();
  const int64_t image_bytes = t.shape.stages[0].input_size * t.images.element_size();
  const int64_t target_bytes =
      classes ? int64_t{sizeof(int64_t)} : t.shape.stages.back().output_size * stored_bytes;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t first = step * batch_size;
    t.shape.batch = std::min(batch_size, count - first);
    NetImages batch = t.net_images();
    const auto* target = static_cast<const char*>(wanted.const_data_ptr());
    if (indices) {
      batch.order = static_cast<const int64_t*>(indices->const_data_ptr()) + first;
      batch.available = available;
    } else {
      batch.data = static_cast<const char*>(batch.data) + first * image_bytes;
      target += first * target_bytes;
    }
    kernels[t.dtype].net_train(t.shape,
                               {batch,
                                target,
                                static_cast<Loss>(loss),
                                {lr, momentum, weight_decay, nesterov},
                                device_lr ? static_cast<const double*>(device_lr->const_data_ptr()) : nullptr,
                                t.pointers.data(),
                                buffers ? buffers->mutable_data_ptr() : nullptr,
                                static_cast<char*>(losses.mutable_data_ptr()) + step * stored_bytes});
  }
  return losses;
}

template <class Library>
void implement(Library& library) {
  library.impl("net", TORCH_BOX(&net));
  library.impl("net_forward", TORCH_BOX(&net_forward));
  library.impl("net_backward", TORCH_BOX(&net_backward));
  library.impl("net_train", TORCH_BOX(&net_train));
}

}  // namespace
}  // namespace lenet_ext

STABLE_TORCH_LIBRARY_IMPL(lenet_ext, CPU, m) {
  lenet_ext::implement(m);
}

STABLE_TORCH_LIBRARY_IMPL(lenet_ext, CUDA, m) {
  lenet_ext::implement(m);
}
