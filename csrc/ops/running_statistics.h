// The running statistics of a network's batch norms, which each batch in training mode changes.
#pragma once

#include <cmath>

#include "ops/network_tensors.h"

namespace lenet_ext {

class RunningStatistics {
 public:
  // counts: of each batch norm with running statistics that uses those of the batch, in the order of the
  // program, the batches it has seen, one number for each member: int64, changed.
  RunningStatistics(const NetworkTensors& t, const Tensors& counts, int64_t members = 1) : t_(t) {
    for (const Stage& stage : t.network->stages) {
      if (!is_tracked(stage)) continue;
      ++tracked_;
      for (size_t i = mean_of(stage); i < mean_of(stage) + 2; ++i) {
        if (!t.parameters[stage.layer.parameters[i]].is_contiguous()) {
          fail(t.op(), ": running statistics must be contiguous");
        }
      }
    }
    if (counts.size() != tracked_) {
      fail(t.op(), ": there must be ", tracked_, " counts of batches, got ", counts.size());
    }
    for (const Tensor& count : counts) {
      if (count.scalar_type() != ScalarType::Long || count.numel() != members || !count.is_contiguous()) {
        fail(t.op(), ": a count of batches must be ", members, " int64");
      }
      check_same_device(t.op(), "input", t.images, "a count of batches", count);
      counts_.push_back(static_cast<int64_t*>(count.mutable_data_ptr()));
    }
  }

  // statistics: those of the batch, of all stages; null for an empty batch, which is counted alone. parameters:
  // those of the member.
  void update(const void* statistics, void* const* parameters, int64_t member = 0) const {
    if (tracked_ == 0) return;
    using Update = void (*)(const RunningStatistics&, const void*, void* const*, int64_t);
    static constexpr auto kUpdates = by_dtype([]<class Stored>() -> Update {
      return [](const RunningStatistics& running, const void* values, void* const* own, int64_t number) {
        running.update_all<Stored>(static_cast<const ComputeType<Stored>*>(values), own, number);
      };
    });
    kUpdates[t_.dtype](*this, statistics, parameters, member);
  }

 private:
  static bool is_tracked(const Stage& stage) {
    return stage.needs_statistics() && stage.layer.numbers[2] != 0;
  }
  static size_t mean_of(const Stage& stage) { return stage.layer.numbers[1] != 0 ? 2 : 0; }

  template <class Stored>
  void update_all(const ComputeType<Stored>* statistics, void* const* parameters, int64_t member) const {
    size_t number = 0;
    for (const Stage& stage : t_.network->stages) {
      const ComputeType<Stored>* const mean = statistics;
      if (statistics != nullptr) statistics += stage.statistics_size();
      if (!is_tracked(stage)) continue;
      const int64_t channels = stage.channels(), seen = ++counts_[number++][member];
      if (mean == nullptr) continue;
      const double momentum = stage.layer.reals[1];
      // Without a momentum the running statistics are the means over all batches.
      const double part = std::isnan(momentum) ? 1.0 / static_cast<double>(seen) : momentum;
      const size_t first = mean_of(stage);
      move<Stored>(channels, part, mean, parameters[stage.layer.parameters[first]]);
      move<Stored>(channels, part, mean + 2 * channels, parameters[stage.layer.parameters[first + 1]]);
    }
  }

  template <class Stored>
  static void move(int64_t channels, double part, const ComputeType<Stored>* from, void* parameter) {
    auto* const to = static_cast<Stored*>(parameter);
    const auto old = static_cast<ComputeType<Stored>>(1 - part),
               added = static_cast<ComputeType<Stored>>(part);
    for (int64_t c = 0; c < channels; ++c) from_compute(old * to_compute(to[c]) + added * from[c], to[c]);
  }

  const NetworkTensors& t_;
  size_t tracked_ = 0;
  std::vector<int64_t*> counts_;
};

}  // namespace lenet_ext
