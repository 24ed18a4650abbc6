// What the fused engine computes of each image of a batch apart: the gradients of each, and steps of private
// training, in two halves, between which the caller draws noise.
#include <cmath>
#include <optional>

#include "ops/huge_pages.h"
#include "ops/registration.h"
#include "ops/train_steps.h"

namespace lenet_ext {
namespace {

// A batch, checked.
class SampleBatch {
 public:
  // places: see SamplePass.
  SampleBatch(const Tensor& images, const Tensor& targets, const std::optional<Tensor>& order,
              const Tensors& parameters, const std::vector<int64_t>& places,
              const std::optional<Tensor>& seeds, std::string_view program,
              const std::optional<Tensor>& normalization, const std::optional<Tensor>& weight,
              const std::optional<Tensor>& pos_weight)
      : t_(images, parameters, program, normalization),
        places_(places),
        kernels_(op(), t_.images),
        targets_(t_, targets, weight, pos_weight) {
    if (!kernels_.on_host()) fail(op(), ": gradients of each image are computed on the CPU alone");
    check_stages();
    check_places();
    order_ = checked_order(t_, kernels_, order);
    targets_.check_values(order_);
    if (count() > 0) targets_.check_batches(count(), count());
    const int64_t* const numbers = seeds_of(t_, seeds, std::array{int64_t{1}});
    seed_ = numbers == nullptr ? 0 : static_cast<uint64_t>(numbers[0]);
  }

  const char* op() const { return t_.op(); }
  const NetworkTensors& tensors() const { return t_; }
  const NetworkKernels& kernels() const { return kernels_[t_.dtype].network; }
  int64_t count() const { return order_ ? order_->numel() : t_.batch; }
  // The first parameter of each place.
  const std::vector<size_t>& wanted() const { return wanted_; }

  // Whether a layer has parameter i, or another one of its place.
  bool is_read(size_t i) const {
    for (size_t k = 0; k < places_.size(); ++k) {
      if (places_[k] == places_[i] && t_.network->parameter_readers[k] > 0) return true;
    }
    return false;
  }

  SamplePass pass(bool& refused) const {
    Images images = t_.all_images();
    images.count = count();
    images.order = numbers_of(order_);
    return {.images = images,
            .targets = targets_.from(0),
            .parameters = t_.pointers.data(),
            .seed = seed_,
            .loss = targets_.tensors(),
            .places = places_,
            .refused = &refused};
  }

  void check_refused(bool refused) const {
    if (refused) targets_.refuse_outputs();
  }

 private:
  void check_stages() const {
    for (const Stage& stage : t_.network->stages) {
      if (!stage.needs_statistics()) continue;
      fail(stage.name,
           ": batch_norm in training mode mixes the images of a batch, so that none has a gradient of its "
           "own: "
           "put the layer into eval mode, or use group_norm in its place");
    }
  }

  void check_places() {
    const auto parameters = static_cast<int64_t>(t_.parameters.size());
    if (static_cast<int64_t>(places_.size()) != parameters) {
      fail(op(), ": places must have ", parameters, " numbers, one of each parameter, got ", places_.size());
    }
    for (int64_t i = 0; i < parameters; ++i) {
      const int64_t place = places_[i], known = static_cast<int64_t>(wanted_.size());
      if (place < -1 || place > known) {
        fail(op(), ": places must count the parameters from 0 on, or be -1, got ", place, " of parameter ",
             i);
      }
      if (place == known) wanted_.push_back(i);
      if (place < 0 || place == known) continue;
      const Tensor &first = t_.parameters[wanted_[place]], &other = t_.parameters[i];
      if (!std::ranges::equal(sizes_of(first), sizes_of(other))) {
        fail(op(), ": parameters of one place must have the same sizes, got ", to_string(sizes_of(first)),
             " and ", to_string(sizes_of(other)));
      }
    }
  }

  const NetworkTensors t_;
  const std::vector<int64_t>& places_;
  const Backend kernels_;
  LossTargets targets_;
  std::vector<size_t> wanted_;
  std::optional<Tensor> order_;
  uint64_t seed_ = 0;
};

// Of each parameter that is wanted the gradients of all images, (N, ...): each image is a batch of its own.
Tensors network_sample_gradients(const Tensor& images, const Tensor& targets, Tensors parameters,
                                 std::vector<int64_t> places, std::optional<Tensor> seeds,
                                 const Text& program, std::optional<Tensor> normalization,
                                 std::optional<Tensor> loss_weight, std::optional<Tensor> loss_pos_weight) {
  const SampleBatch batch(images, targets, std::nullopt, parameters, places, seeds, program, normalization,
                          loss_weight, loss_pos_weight);
  const NetworkTensors& t = batch.tensors();
  Tensors gradients;
  std::vector<void*> pointers;
  for (const size_t i : batch.wanted()) {
    const Sizes own = sizes_of(t.parameters[i]);
    gradients.push_back(empty(t.with_batch({own.begin(), own.end()}), t.parameters[i]));
    prefer_huge_pages(gradients.back());
    pointers.push_back(gradients.back().mutable_data_ptr());
    if (!batch.is_read(i)) set_to_zero(gradients.back());
  }
  bool refused = false;
  if (batch.count() > 0) {
    batch.kernels().sample_gradients(t.network,
                                     {.samples = batch.pass(refused), .gradients = pointers.data()});
  }
  batch.check_refused(refused);
  return gradients;
}

// The gradients of the images of a batch, each scaled down to max_norm if its norm over all parameters that are
// wanted is greater, added up: in the compute type, parameter after parameter. Behind them the loss of the
// batch: the mean over the images of theirs, or the sum.
std::tuple<Tensor, Tensor> network_clipped_sums(const Tensor& images, const Tensor& targets,
                                                std::optional<Tensor> order, Tensors parameters,
                                                std::vector<int64_t> places, std::optional<Tensor> seeds,
                                                const Text& program, std::optional<Tensor> normalization,
                                                double max_norm, std::optional<Tensor> loss_weight,
                                                std::optional<Tensor> loss_pos_weight) {
  const SampleBatch batch(images, targets, order, parameters, places, seeds, program, normalization,
                          loss_weight, loss_pos_weight);
  const NetworkTensors& t = batch.tensors();
  if (!(max_norm > 0)) fail(batch.op(), ": max_norm must be positive, got ", max_norm);
  int64_t elements = 0;
  for (const size_t i : batch.wanted()) elements += t.network->parameter_sizes[i];
  Tensor sums = empty_of(std::array{elements}, compute_type(t.dtype), t.images);
  Tensor loss = empty_of(SizeList{}, kScalarTypes[t.dtype], t.images);
  std::vector<void*> pointers;
  char* place = static_cast<char*>(sums.mutable_data_ptr());
  for (const size_t i : batch.wanted()) {
    const int64_t bytes = t.network->parameter_sizes[i] * sums.element_size();
    if (batch.count() == 0 || !batch.is_read(i)) std::memset(place, 0, bytes);
    pointers.push_back(place);
    place += bytes;
  }
  bool refused = false;
  double total = 0;
  if (batch.count() > 0) {
    batch.kernels().clipped_sums(
        t.network,
        {.samples = batch.pass(refused), .max_norm = max_norm, .sums = pointers.data(), .loss = &total});
  }
  batch.check_refused(refused);
  if (t.network->loss->mean) total /= static_cast<double>(batch.count());
  static constexpr auto kStores = by_dtype([]<class Stored>() -> void (*)(double, void*) {
    return [](double value, void* to) {
      from_compute(static_cast<ComputeType<Stored>>(value), *static_cast<Stored*>(to));
    };
  });
  kStores[t.dtype](total, loss.mutable_data_ptr());
  return {sums, loss};
}

Optimizer optimizer_named(const char* op, std::string_view name) {
  for (size_t i = 0; i < std::size(kOptimizers); ++i) {
    if (name == kOptimizers[i].name) return static_cast<Optimizer>(i);
  }
  fail(op, ": there is no optimizer of the name \"", name, "\"");
}

// The step of an optimizer for the parameters of the numbers `wanted`, one after the other, whose gradients are
// (sums + noise) / divisor. Changes parameters, state and sums, which become the gradients. options, state: as
// of network_train, of all parameters.
void network_noisy_update(Tensors parameters, Tensors state, const Tensor& options,
                          std::vector<int64_t> wanted, Tensor sums, std::optional<Tensor> noise,
                          double divisor, const Text& optimizer) {
  const char* const op = "network_noisy_update";
  if (parameters.empty()) fail(op, ": there are no parameters");
  const Backend kernels(op, parameters[0]);
  if (!kernels.on_host()) fail(op, ": it runs on the CPU alone");
  const DType dtype = dtype_of(op, "parameters", parameters[0]);
  Network network;
  network.name = op;
  network.optimizer = optimizer_named(op, optimizer);
  std::vector<void*> pointers;
  check_contiguous(op, parameters);
  for (const Tensor& parameter : parameters) {
    check_same_kind(op, "a parameter", parameters[0], "another", parameter);
    network.parameter_sizes.push_back(parameter.numel());
    pointers.push_back(parameter.mutable_data_ptr());
  }
  int64_t elements = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t number = wanted[i], least = i == 0 ? 0 : wanted[i - 1] + 1;
    if (number < least || number >= static_cast<int64_t>(parameters.size())) {
      fail(op, ": wanted must be numbers of the ", parameters.size(), " parameters in order, got ", number);
    }
    elements += network.parameter_sizes[number];
  }
  const OptimizerTensors own(op, network, "a parameter", parameters[0], state, options);
  if (sums.scalar_type() != compute_type(dtype) || !sums.is_contiguous()) {
    fail(op, ": sums must be contiguous, ", torch::headeronly::toString(compute_type(dtype)));
  }
  check_same_device(op, "a parameter", parameters[0], "sums", sums);
  check_sizes(op, "sums", sums, std::array{elements});
  std::optional<Tensor> drawn;
  if (noise) {
    check_same_kind(op, "a parameter", parameters[0], "noise", *noise);
    check_sizes(op, "noise", *noise, std::array{elements});
    drawn = dense(*noise);
  }
  if (!(divisor > 0) || std::isinf(divisor)) fail(op, ": divisor must be positive, got ", divisor);
  TrainPass pass{};
  pass.parameters = pointers.data(), pass.options = own.options(), pass.state = own.state();
  pass.steps = own.steps();
  kernels[dtype].network.noisy_update(network, pass,
                                      {.parameters = wanted,
                                       .sums = sums.mutable_data_ptr(),
                                       .noise = drawn ? drawn->const_data_ptr() : nullptr,
                                       .divisor = divisor});
}

const Registration registration = {
    {"network_sample_gradients(Tensor images, Tensor targets, Tensor[] parameters, int[] places, Tensor? "
     "seeds, str program, Tensor? normalization, Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> "
     "Tensor[]",
     TORCH_BOX(&network_sample_gradients)},
    {"network_clipped_sums(Tensor images, Tensor targets, Tensor? order, Tensor[] parameters, int[] places, "
     "Tensor? seeds, str program, Tensor? normalization, float max_norm, Tensor? loss_weight=None, Tensor? "
     "loss_pos_weight=None) -> (Tensor, Tensor)",
     TORCH_BOX(&network_clipped_sums)},
    {"network_noisy_update(Tensor(a!)[] parameters, Tensor(b!)[] state, Tensor options, int[] wanted, "
     "Tensor(c!) sums, Tensor? noise, float divisor, str optimizer) -> ()",
     TORCH_BOX(&network_noisy_update)},
};

}  // namespace
}  // namespace lenet_ext
