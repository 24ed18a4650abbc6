// A network ready to run: its stages in segments.
//
// Between two segments the activations of the whole batch are kept. A linear layer that is too wide for the
// second-level cache begins a segment of its own kind: read anew for every tile of images, its weight would
// cost more time than the arithmetic. So it and all that follow take the whole batch at once, and threads
// share the work within a layer.
#pragma once

#include "cpu/engine/segment.h"
#include "cpu/runtime/recent.h"

namespace lenet_ext::cpu {

template <class S>
class Engine {
  using T = typename S::Scalar;

 public:
  Engine(const NetworkPtr& network, int64_t batch, Purpose purpose)
      : network_(network), batch_(batch), purpose_(purpose) {
    const size_t wide = first_wide_stage(), count = network_->stages.size();
    segments_.reserve(2);
    if (wide > 0) segments_.emplace_back(*network_, 0, wide, batch, false, purpose);
    if (wide < count) segments_.emplace_back(*network_, wide, count, batch, true, purpose);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // From a few that each thread keeps, since planning (about 3 us for the LeNet) counts beside the work on
  // one image. Parameters are to be set before each pass. Engines hold Scratch, which the thread's
  // ScratchCache must outlive: it is made first.
  static std::shared_ptr<Engine> of(const NetworkPtr& network, int64_t batch, Purpose purpose) {
    ScratchCache::of_this_thread();
    thread_local Recent<Engine> kept;
    return kept.find_or_make(
        [&](const Engine& e) { return e.network_ == network && e.batch_ == batch && e.purpose_ == purpose; },
        [&] { return std::make_shared<Engine>(network, batch, purpose); });
  }

  void set_parameters(const T* const* parameters) {
    for (Segment<S>& segment : segments_) segment.set_parameters(parameters);
  }
  const std::vector<Segment<S>>& segments() const { return segments_; }

 private:
  size_t first_wide_stage() const {
    constexpr int64_t kWideWeights = 512 * 1024;  // elements
    const auto& stages = network_->stages;
    const auto is_wide = [](const Stage& s) {
      return s.core == Stage::Core::kLinear && s.weight_size > kWideWeights;
    };
    return std::ranges::find_if(stages, is_wide) - stages.begin();
  }

  const NetworkPtr network_;  // which the segments refer to
  const int64_t batch_;
  const Purpose purpose_;
  std::vector<Segment<S>> segments_;
};

}  // namespace lenet_ext::cpu
