// Networks of one architecture, the members of an ensemble: their parameters lie in stacked tensors, (members, ...).
//
// A member is computed by one thread, as the same network would be alone: threads take members and never wait
// for each other. Only where there are fewer members than threads do all threads share each.
#include <atomic>
#include <limits>

#include "cpu/runtime/parallel.h"
#include "ops/registration.h"
#include "ops/train_steps.h"

namespace lenet_ext {
namespace {

constexpr const char* kOnHost = ": an ensemble runs on the CPU alone: move it and its images there";

// body(member) for all of them.
template <class Body>
void for_each_member(int64_t members, const Body& body) {
  if (members < static_cast<int64_t>(torch::stable::get_num_threads())) {
    for (int64_t member = 0; member < members; ++member) body(member);
    return;
  }
  // Members may have different numbers of steps: who is done takes the next.
  struct Work {
    const Body& body;
    const int64_t members;
    std::atomic<int64_t> next = 0;
  } work{body, members};
  cpu::run_parallel(
      members, 1,
      [](void* context, int64_t, int64_t) {
        auto& shared = *static_cast<Work*>(context);
        for (int64_t member = shared.next++; member < shared.members; member = shared.next++) {
          shared.body(member);
        }
      },
      &work);
}

// Inference. images: (N, ...) for all members, or those of one member after the other, if they are their own.
// The outputs are (members, N, ...).
Tensors ensemble(const Tensor& images, Tensors parameters, int64_t members, bool own_images,
                 const Text& program, std::optional<Tensor> normalization, std::optional<Tensor> seeds) {
  if (members < 0) fail("ensemble: members must be at least 0, got ", members);
  const NetworkTensors t(images, parameters, program, normalization, /*keeps=*/false, members);
  const char* const op = t.op();
  const Backend kernels(op, t.images);
  if (!kernels.on_host()) fail(op, kOnHost);
  if (own_images && t.batch % std::max<int64_t>(members, 1) != 0) {
    fail(op, ": ", t.batch, " images cannot be those of ", members, " members, as many for each");
  }
  const int64_t batch = own_images && members > 0 ? t.batch / members : t.batch;
  t.check_statistics(batch);
  const int64_t* const numbers = seeds_of(t, seeds, std::array{members});
  Tensors outputs;
  for (const NetworkOutput& output : t.network->outputs) {
    SizeList sizes{members, batch};
    sizes.insert(sizes.end(), output.sizes.begin(), output.sizes.end());
    outputs.push_back(empty_of(sizes, kScalarTypes[t.dtype], t.images));
  }
  if (batch == 0) return outputs;
  std::vector<char*> first;
  for (const Tensor& output : outputs) first.push_back(static_cast<char*>(output.mutable_data_ptr()));
  const int64_t image_bytes = t.network->image_size() * t.images.element_size();
  for_each_member(members, [&](int64_t member) {
    Images own = t.all_images();
    own.count = own.available = batch;
    if (own_images) own.data = static_cast<const char*>(own.data) + member * batch * image_bytes;
    const std::vector<void*> pointers = t.pointers_of(member);
    std::vector<void*> to(outputs.size());
    for (size_t k = 0; k < to.size(); ++k) {
      to[k] = first[k] +
              member * batch * t.network->value_size(t.network->outputs[k].value) * outputs[k].element_size();
    }
    kernels[t.dtype].network.forward(t.network,
                                     {.images = own,
                                      .parameters = pointers.data(),
                                      .seed = numbers == nullptr ? 0 : static_cast<uint64_t>(numbers[member]),
                                      .outputs = to.data(),
                                      .saved = nullptr,
                                      .argmax = nullptr});
  });
  return outputs;
}

// What each member takes of the images, or of the order if there is one: [first, last).
class Ranges {
 public:
  Ranges(const char* op, const Tensor& ranges, int64_t available) : ranges_(ranges) {
    check_int64(op, "ranges", ranges_, 2);
    if (ranges_.size(1) != 2 || !is_on_cpu(ranges_) || !ranges_.is_contiguous()) {
      fail(op, ": ranges must be (members, 2), contiguous, on the CPU");
    }
    for (int64_t member = 0; member < members(); ++member) {
      if (first(member) < 0 || first(member) > last(member) || last(member) > available) {
        fail(op, ": a member takes [", first(member), ", ", last(member), ") of ", available, " images");
      }
    }
  }
  int64_t members() const { return ranges_.size(0); }
  int64_t first(int64_t member) const { return values()[2 * member]; }
  int64_t last(int64_t member) const { return values()[2 * member + 1]; }
  int64_t count(int64_t member) const { return last(member) - first(member); }

 private:
  const int64_t* values() const { return static_cast<const int64_t*>(ranges_.const_data_ptr()); }
  Tensor ranges_;
};

// Steps of each member over its range of the images, or of `order`, in batches of batch_size. The losses are
// (members, steps) for the most steps that a member takes, NaN behind those of others. Everything is checked
// before the first step. A step whose outputs have no loss has the loss NaN and changes nothing.
Tensor ensemble_train(const Tensor& images, const Tensor& targets, std::optional<Tensor> order,
                      const Tensor& ranges, Tensors parameters, Tensors state, const Tensor& options,
                      Tensors counts, std::optional<Tensor> seeds, const Text& program,
                      std::optional<Tensor> normalization, int64_t batch_size,
                      std::optional<Tensor> loss_weight, std::optional<Tensor> loss_pos_weight) {
  const int64_t members = ranges.sizes().empty() ? 0 : ranges.size(0);
  const NetworkTensors t(images, parameters, program, normalization, /*keeps=*/true, members);
  const char* const op = t.op();
  check_contiguous(op, parameters);
  if (batch_size < 1) fail(op, ": batch_size must be at least 1, got ", batch_size);
  const Backend kernels(op, t.images);
  if (!kernels.on_host()) fail(op, kOnHost);
  const LossTargets wanted(t, targets, loss_weight, loss_pos_weight);
  const std::optional<Tensor> images_in_order = checked_order(t, kernels, order);
  const OptimizerTensors optimizer = optimizer_of(t, state, options, members);
  const RunningStatistics running(t, counts, members);
  const Ranges of(op, ranges, images_in_order ? images_in_order->numel() : t.batch);
  wanted.check_values(images_in_order);
  int64_t most = 0;
  for (int64_t member = 0; member < members; ++member) {
    const int64_t count = of.count(member), rest = count % batch_size;
    most = std::max(most, count / batch_size + (rest != 0));
    if (count > 0) t.check_statistics(rest == 0 ? batch_size : rest), wanted.check_batches(count, batch_size);
  }
  const int64_t* const numbers = seeds_of(t, seeds, std::array{members, most});
  Tensor losses = empty_of(std::array{members, most}, kScalarTypes[t.dtype], t.images);
  static constexpr auto kFillNaN = by_dtype([]<class Stored>() -> void (*)(void*, int64_t) {
    return [](void* to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        from_compute(std::numeric_limits<ComputeType<Stored>>::quiet_NaN(), static_cast<Stored*>(to)[i]);
      }
    };
  });
  kFillNaN[t.dtype](losses.mutable_data_ptr(), losses.numel());
  const auto parameter_count = static_cast<int64_t>(parameters.size());
  const int64_t statistics_bytes =
      t.network->statistics_before(t.network->stages.size()) * int64_t{sizeof(double)};
  for_each_member(members, [&](int64_t member) {
    const std::vector<void*> own = t.pointers_of(member), own_state = optimizer.state_of(member);
    std::vector<float> steps(optimizer.steps() == nullptr ? 0 : parameter_count);
    for (size_t i = 0; i < steps.size(); ++i) steps[i] = optimizer.steps()[i * members + member];
    std::vector<std::byte> statistics(statistics_bytes);
    take_steps(
        t, kernels, wanted, running,
        {.first = of.first(member),
         .count = of.count(member),
         .order = numbers_of(images_in_order),
         .batch_size = batch_size,
         .parameters = own.data(),
         .state = own_state.data(),
         .counts = steps.empty() ? nullptr : steps.data(),
         .options = optimizer.options(member),
         .seeds = numbers == nullptr ? nullptr : numbers + member * most,
         .losses = static_cast<char*>(losses.mutable_data_ptr()) + member * most * losses.element_size(),
         .member = member},
        statistics.data(), [&](int64_t, void* loss) {
          kFillNaN[t.dtype](loss, 1);
          return true;
        });
    for (size_t i = 0; i < steps.size(); ++i) optimizer.steps()[i * members + member] = steps[i];
  });
  return losses;
}

const Registration registration = {
    {"ensemble(Tensor images, Tensor[] parameters, int members, bool own_images, str program, Tensor? "
     "normalization, Tensor? seeds) -> Tensor[]",
     TORCH_BOX(&ensemble)},
    {"ensemble_train(Tensor images, Tensor targets, Tensor? order, Tensor ranges, Tensor(a!)[] parameters, "
     "Tensor(b!)[] state, Tensor options, Tensor(c!)[] counts, Tensor? seeds, str program, Tensor? "
     "normalization, int batch_size, Tensor? loss_weight=None, Tensor? loss_pos_weight=None) -> Tensor",
     TORCH_BOX(&ensemble_train)},
};

}  // namespace
}  // namespace lenet_ext
