// A pass over a network: where the values and gradients of the whole batch lie, and how a tile of images goes
// forward and backward through a segment.
#pragma once

#include <optional>

#include "cpu/engine/engine.h"
#include "cpu/engine/statistics.h"
#include "cpu/engine/tensors.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class NetworkRun {
 public:
  using T = typename S::Scalar;

  // tile_images: of the tiles of a pass that tells images apart.
  NetworkRun(const NetworkPtr& network, const Images& images, const void* const* parameters, uint64_t seed,
             Purpose purpose, T* statistics, std::optional<int64_t> tile_images = {})
      : NetworkRun(*network, images, Engine<S>::of(network, tile_images.value_or(images.count), purpose),
                   statistics) {
    parameters_.emplace(*network, parameters);
    engine_->set_parameters({parameters_->pointers(), seed});
  }
  // With an engine for so many images, whose parameters are set.
  NetworkRun(const Network& network, const Images& images, std::shared_ptr<Engine<S>> engine, T* statistics)
      : network_(network),
        images_(images),
        engine_(std::move(engine)),
        statistics_memory_(statistics != nullptr ? 0 : network.statistics_before(network.stages.size())),
        statistics_(network, statistics != nullptr ? statistics : statistics_memory_.data()),
        values_(network.stages.size() + 1),
        stages_(network.stages.size()) {}

  const Engine<S>& engine() const { return *engine_; }
  int64_t batch() const { return images_.count; }
  T* batch_memory(int64_t size) {
    return memory_.emplace_back(std::make_unique<Scratch<T>>(batch() * size))->data();
  }

  // Before a pass: where a value, or what a stage leaves for backward, lies for the whole batch.
  void set_values(int value, T* whole) { values_[value].values = whole; }
  void set_kept(size_t stage, uint8_t* whole) { stages_[stage].kept = whole; }

  // Before forward: of the stages that need statistics, segment i gathers what it gives.
  void observe_all() {
    for (size_t i = 0; i < network_.stages.size(); ++i) {
      const Stage& stage = network_.stages[i];
      if (!stage.needs_statistics()) continue;
      statistics_.add(i, *engine_->kernels(i).statistics(), engine_->segment_with(stage.inputs[0]));
    }
  }

  // A tile in a segment, with memory for what is not of the whole batch.
  class Tile {
   public:
    Tile(NetworkRun& run, const Segment<S>& segment, const TileRange& range, bool keeps)
        : range(range),
          images_(run.loads_images(segment) ? segment.tile_images() * run.network_.image_size() : 0),
          values_(run.needs_memory(segment) ? segment.values_size() : 0),
          kept_(keeps ? segment.kept_size() : 0),
          pointers_(static_cast<int64_t>(run.values_.size())),
          kept_pointers_(static_cast<int64_t>(run.stages_.size())) {
      const Network& network = run.network_;
      for (size_t v = 1; v <= segment.end(); ++v) {
        const int value = static_cast<int>(v);
        T* const whole = run.values_[v].values;
        pointers_[value] = whole != nullptr          ? whole + range.first * network.value_size(value)
                           : segment.contains(value) ? values_.data() + segment.value_at(value)
                                                     : nullptr;
      }
      for (size_t i = segment.begin(); i < segment.end(); ++i) {
        uint8_t* const whole = run.stages_[i].kept;
        kept_pointers_[static_cast<int64_t>(i)] = whole != nullptr
                                                      ? whole + range.first * network.stages[i].argmax_bytes()
                                                  : keeps ? kept_.data() + segment.kept_at(i)
                                                          : nullptr;
      }
      if (segment.uses_images()) {
        pointers_[0] = const_cast<T*>(
            load_images<S, Stored>(network, run.images_, range.first, range.count, images_.data()));
      }
    }

    T* value(int i) { return pointers_[i]; }
    const T* const* values() { return pointers_.data(); }
    uint8_t* kept(size_t stage) { return kept_pointers_[static_cast<int64_t>(stage)]; }

    const TileRange range;

   private:
    Scratch<T> images_, values_;
    Scratch<uint8_t> kept_;
    Scratch<T*> pointers_;
    Scratch<uint8_t*> kept_pointers_;
  };

  // What a stage is to be given of a tile.
  StageCall<T> call_of(Tile& tile, size_t i) const {
    return {.first = tile.range.first,
            .count = tile.range.count,
            .values = tile.values(),
            .inputs = network_.stages[i].inputs.data(),
            .output = tile.value(static_cast<int>(i) + 1),
            .kept = tile.kept(i)};
  }

  // Before the first tile of a segment.
  void begin(const Segment<S>& segment) {
    if (segment.begin() < segment.end()) statistics_.finish(segment.begin());
  }
  void forward(const Segment<S>& segment, Tile& tile) {
    if (segment.begin() == 0) statistics_.observe(0, tile.range, tile.value(0));
    for (size_t i = segment.begin(); i < segment.end(); ++i) {
      segment.kernels(i).forward(call_of(tile, i));
      statistics_.observe(static_cast<int>(i) + 1, tile.range, tile.value(static_cast<int>(i) + 1));
    }
  }

  // Before backward. is_wanted(parameter): whether the gradient of a parameter is. images: where those of the
  // images go in the compute type; null if they are not wanted.
  template <class IsWanted>
  void want_gradients(const IsWanted& is_wanted, T* images) {
    values_[0].gradients = images, values_[0].wanted = images != nullptr;
    const auto reads_wanted = [&](int value) { return values_[value].wanted; };
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = network_.stages[i];
      ValuePlace& given = values_[i + 1];
      given.wanted = network_.gradient_wanted(i, is_wanted, reads_wanted);
      if (given.wanted && engine_->gradient_crosses(static_cast<int>(i) + 1)) {
        given.gradients = batch_memory(stage.output_size);
      }
      if (stage.needs_statistics() && values_[stage.inputs[0]].wanted) {
        stages_[i].gradients = batch_memory(stage.batch_gradient_size());
      }
    }
  }

  // Whether anything that is wanted lies in a segment.
  bool reaches(const Segment<S>& segment) const {
    for (size_t i = segment.begin(); i < segment.end(); ++i) {
      if (values_[i + 1].wanted) return true;
    }
    return false;
  }

  // body(tile, chunk, gradients, backward): writes gradients of outputs by gradients.output(value), and calls
  // backward().
  template <class Body>
  void backward(Segment<S>& segment, const GradientSink<T>& pieces, bool keeps, const Body& body) {
    segment.with_gradients(pieces, [&](const TileRange& range, int64_t chunk, const GradientSink<T>& sink) {
      Tile tile(*this, segment, range, keeps);
      TileGradients gradients(*this, segment, tile);
      body(tile, chunk, gradients, [&] { gradients.backward(sink); });
    });
    for (size_t i = segment.begin(); i < segment.end(); ++i) {
      if (!values_[i + 1].wanted || network_.stages[i].needs_statistics()) continue;
      for (int value : network_.stages[i].inputs) values_[value].filled = true;
    }
  }

  // After backward: of the images, as far as statistics of theirs have a part in it.
  void finish_images() {
    if (values_[0].gradients == nullptr) return;
    Segment<S>& first = engine_->segment(0);
    first.for_each_tile([&](const TileRange& range) {
      Tile tile(*this, first, range, false);
      TileGradients(*this, first, tile).complete(0);
    });
  }

  class TileGradients;

 private:
  bool loads_images(const Segment<S>& segment) const {
    return segment.uses_images() &&
           !(std::is_same_v<T, Stored> && !images_.bytes && images_.order == nullptr);
  }
  bool needs_memory(const Segment<S>& segment) const {
    for (size_t v = segment.begin() + 1; v <= segment.end(); ++v) {
      if (values_[v].values == nullptr) return true;
    }
    return false;
  }

  // Where something lies for the whole batch; null where each tile has memory of its own. wanted, filled:
  // whether the gradient is, and is there.
  struct ValuePlace {
    T *values = nullptr, *gradients = nullptr;
    bool wanted = false, filled = false;
  };
  // gradients: what a stage that needs statistics leaves of the gradient of its input.
  struct StagePlace {
    uint8_t* kept = nullptr;
    T* gradients = nullptr;
  };

  const Network& network_;
  const Images& images_;
  std::optional<const WideParameters<S, Stored>> parameters_;
  const std::shared_ptr<Engine<S>> engine_;
  Scratch<T> statistics_memory_;
  Statistics<S> statistics_;
  std::vector<std::unique_ptr<Scratch<T>>> memory_;
  std::vector<ValuePlace> values_;
  std::vector<StagePlace> stages_;
};

}  // namespace lenet_ext::cpu

#include "cpu/engine/tile_gradients.h"  // the rest of it
