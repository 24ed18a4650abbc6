// The statistics of a batch that stages of a network normalize by: gathered while the stages before run, tile
// by tile.
#pragma once

#include "cpu/engine/segment.h"

namespace lenet_ext::cpu {

template <class S>
class Statistics {
  using T = typename S::Scalar;

 public:
  // memory: Network::statistics_before of all stages.
  Statistics(const Network& network, T* memory) : network_(network), memory_(memory) {}

  // A stage of a later segment. segment: the one that gives what it reads.
  void add(size_t stage, StatisticsKernels<S>& kernels, const Segment<S>& segment) {
    const auto size = static_cast<size_t>(kernels.partial_size() * segment.tiles());
    observers_.push_back({stage, network_.stages[stage].inputs[0], &kernels, std::vector<double>(size),
                          std::vector<int64_t>(segment.tiles())});
  }

  // `values` are those of a tile.
  void observe(int value, const TileRange& tile, const T* values) {
    for (Observer& o : observers_) {
      if (o.value != value) continue;
      o.tile_images[tile.index] = tile.count;
      o.kernels->observe(values, tile.count, o.partials.data() + tile.index * o.kernels->partial_size());
    }
  }

  // Once all tiles were observed.
  void finish(size_t stage) {
    for (Observer& o : observers_) {
      if (o.stage != stage) continue;
      T* const statistics = memory_ + network_.statistics_before(stage);
      o.kernels->finish_statistics(o.partials.data(), static_cast<int64_t>(o.tile_images.size()),
                                   o.tile_images.data(), statistics);
      o.kernels->set_statistics(statistics);
    }
  }

 private:
  struct Observer {
    size_t stage;
    int value;
    StatisticsKernels<S>* kernels;
    std::vector<double> partials;
    std::vector<int64_t> tile_images;
  };
  const Network& network_;
  T* const memory_;
  std::vector<Observer> observers_;
};

}  // namespace lenet_ext::cpu
