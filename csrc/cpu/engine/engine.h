// A network ready to run: its stages in segments.
//
// Between two segments the activations of the whole batch are kept. A stage that needs statistics of the batch
// begins one. So does a linear layer that is too wide for the second-level cache: read anew for every tile of
// images, its weight would cost more time than the arithmetic. It and all that follow take the whole batch at
// once, and threads share the work within a layer.
#pragma once

#include "cpu/engine/segment.h"
#include "cpu/runtime/recent.h"

namespace lenet_ext::cpu {

// Whether a stage's weight is too large for the second-level cache.
inline bool is_wide(const Stage& s) {
  constexpr int64_t kWideWeights = 512 * 1024;  // elements
  return s.core == LayerKind::kLinear && s.weight_size > kWideWeights;
}

template <class S>
class Engine {
  using T = typename S::Scalar;

 public:
  Engine(const NetworkPtr& network, int64_t batch, Purpose purpose)
      : network_(network), batch_(batch), purpose_(purpose) {
    const size_t wide = purpose.by_image ? 0 : first_wide_stage(), count = network_->stages.size();
    size_t begin = 0;
    for (size_t i = 0; i <= count; ++i) {
      // Where the first stage is one, a segment without stages gathers the statistics of the images.
      const bool barrier = i == count || network_->stages[i].needs_statistics() || (i == wide && i > 0);
      if (!barrier) continue;
      segments_.push_back(std::make_unique<Segment<S>>(*network_, begin, i, batch, begin >= wide, purpose));
      begin = i;
    }
    crossing_ = crossing_gradients_ = std::vector<bool>(count + 1);
    for (const auto& segment : segments_) {
      for (int value = 0; value <= static_cast<int>(segment->begin()); ++value) {
        if (segment->reads(value)) crossing_[value] = true;
        if (segment->gives_gradient(value)) crossing_gradients_[value] = true;
      }
    }
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

  void set_parameters(const StageParameters<T>& parameters) {
    for (const auto& segment : segments_) segment->set_parameters(parameters);
  }
  size_t segments() const { return segments_.size(); }
  Segment<S>& segment(size_t i) const { return *segments_[i]; }
  StageKernels<S>& kernels(size_t stage) const {
    return segment_with(static_cast<int>(stage) + 1).kernels(stage);
  }
  // The one that gives `value`; for the images the first.
  Segment<S>& segment_with(int value) const {
    for (const auto& segment : segments_) {
      if (segment->contains(value)) return *segment;
    }
    return *segments_.front();
  }
  // Whether a segment reads what lies before it: those that are read in another segment than they are given.
  bool crosses(int value) const { return crossing_[value]; }
  // Of its gradient: that which comes from statistics of the batch is made where it is used.
  bool gradient_crosses(int value) const { return crossing_gradients_[value]; }

 private:
  size_t first_wide_stage() const {
    const auto& stages = network_->stages;
    return std::ranges::find_if(stages, is_wide) - stages.begin();
  }

  const NetworkPtr network_;  // which the segments refer to
  const int64_t batch_;
  const Purpose purpose_;
  std::vector<std::unique_ptr<Segment<S>>> segments_;
  std::vector<bool> crossing_, crossing_gradients_;
};

}  // namespace lenet_ext::cpu
