// A network for inference alone: for each size of batch its plans are made, its weights packed and its batch norms
// folded once, and all threads share them. The weights of linear layers are packed for all sizes together.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "cpu/engine/packed_weights.h"
#include "cpu/engine/passes.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class FrozenNetwork final : public FrozenPass {
  using T = typename S::Scalar;

 public:
  // parameters: of the compute type.
  FrozenNetwork(const NetworkPtr& network, const void* const* parameters) : network_(network) {
    for (size_t i = 0; i < network->parameter_sizes.size(); ++i) {
      parameters_.push_back(static_cast<const T*>(parameters[i]));
    }
    // Kernels keep the statistics of a batch while they run: each thread needs its own.
    shares_ = std::ranges::none_of(network->stages, &Stage::needs_statistics);
  }
  ~FrozenNetwork() override {
    for (const auto& plan : plans_) delete plan.load(std::memory_order_relaxed);
    delete packed_.load(std::memory_order_relaxed);
  }

  void run(const Images& images, void* const* outputs) const override {
    NetworkRun<S, Stored> run(*network_, images, engine_for(images.count), nullptr);
    write_outputs(run, *network_, /*saves=*/false, outputs);
  }

 private:
  // The kernels of an engine are not changed by a forward pass, so that threads may run it at once.
  class Plan {
   public:
    Plan(const FrozenNetwork& net, int64_t batch) : batch_(batch) {
      const LastingScratch lasting(arena_);
      engine_ = std::make_unique<Engine<S>>(net.network_, batch, Purpose{});
      engine_->set_parameters(net.stage_parameters(batch));
    }
    ~Plan() {
      const LastingScratch lasting(arena_);
      engine_.reset();
    }
    int64_t batch() const { return batch_; }
    // That is not counted, since the network outlives its runs.
    std::shared_ptr<Engine<S>> engine() const { return {std::shared_ptr<void>(), engine_.get()}; }

   private:
    const int64_t batch_;
    ScratchArena arena_;
    std::unique_ptr<Engine<S>> engine_;
  };

  StageParameters<T> stage_parameters(int64_t batch) const {
    if (!PackedWeights<S>::serve(*network_, batch)) return {parameters_.data(), 0};
    const PackedWeights<S>* there = packed_.load(std::memory_order_acquire);
    if (there == nullptr) {
      auto made = std::make_unique<const PackedWeights<S>>(*network_, parameters_);
      if (packed_.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel))
        there = made.release();
    }
    return {parameters_.data(), 0, there->pointers()};
  }

  std::shared_ptr<Engine<S>> engine_for(int64_t batch) const {
    if (const Plan* const plan = shares_ ? plan_for(batch) : nullptr) return plan->engine();
    auto engine = Engine<S>::of(network_, batch, Purpose{});
    engine->set_parameters(stage_parameters(batch));
    return engine;
  }

  // Null where as many are kept as may be. Without a lock, which a child of a fork might find locked for ever.
  const Plan* plan_for(int64_t batch) const {
    std::unique_ptr<const Plan> made;
    for (auto& place : plans_) {
      const Plan* there = place.load(std::memory_order_acquire);
      if (there == nullptr) {
        if (!made) made = std::make_unique<const Plan>(*this, batch);
        if (place.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel))
          return made.release();
      }
      if (there->batch() == batch) return there;  // perhaps by another thread, in the meantime
    }
    return nullptr;
  }

  static constexpr size_t kMostPlans = 32;  // the other sizes of batches are planned anew now and then

  const NetworkPtr network_;
  std::vector<const T*> parameters_;
  bool shares_;
  mutable std::array<std::atomic<const Plan*>, kMostPlans> plans_{};
  mutable std::atomic<const PackedWeights<S>*> packed_{};
};

template <class S, class Stored>
std::unique_ptr<const FrozenPass> freeze_network(const NetworkPtr& network, const void* const* parameters) {
  return std::make_unique<const FrozenNetwork<S, Stored>>(network, parameters);
}

}  // namespace lenet_ext::cpu
