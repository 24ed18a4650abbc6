// A segment of a network: stages that tiles of a few images run through, so that activations stay in the
// cache.
//
// The batch is cut into tiles of a size that depends on the sizes of batch and network only. In a pass with parameter
// gradients, consecutive tiles form a fixed number of chunks; each chunk sums the gradients of its images in
// order, and the chunks' sums are added in order: results are the same for every number of threads.
#pragma once

#include "cpu/engine/slots.h"
#include "cpu/engine/stage_kernels.h"
#include "cpu/engine/stages/make.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// Which of a pass's results are wanted. by_image: those of each image apart, a tile at a time, which is the whole
// batch to the engine.
struct Purpose {
  bool backward = false, input_grad = false, by_image = false;

  bool operator==(const Purpose&) const = default;
};

// Of a segment: images [first, first + count) of the batch, by their number.
struct TileRange {
  int64_t index, first, count;
};

// About the cycles of one image in a stage.
template <class S>
int64_t stage_cost(const Stage& s) {
  const int64_t pixels = s.conv.out_height == 0 ? std::max<int64_t>(s.linear.rows, 1)
                                                : s.conv.out_height * s.conv.out_width / s.conv.groups;
  return (s.weight_size * pixels + s.core_size) / S::width;
}

// The sums of all chunks, of `size` elements each, to those of the first.
template <class S>
void add_chunks(int64_t chunks, int64_t size, typename S::Scalar* sums) {
  constexpr int64_t kBlock = 4096;
  parallel_for((size + kBlock - 1) / kBlock, kBlock / 8 * chunks, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kBlock, count = std::min(end * kBlock, size) - first;
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_row<S>(sums + chunk * size + first, sums + first, count);
    }
  });
}

template <class S>
class Segment {
  using T = typename S::Scalar;

 public:
  // Stages [first, last) of the network. whole: the batch is a single tile.
  Segment(const Network& network, size_t first, size_t last, int64_t batch, bool whole, Purpose purpose)
      : network_(network), first_(first), batch_(batch) {
    constexpr int64_t kTileValues = 256 * 1024;  // 1 MiB of float32, a second-level cache
    constexpr int64_t kMostTileImages = 32, kLeastTiles = 4;
    // A tile of less work is not worth a thread and all the weights that it reads; on the way back it must also be
    // worth sums of gradients of its own, as large as the parameters.
    const int64_t least_cycles = purpose.backward ? 150'000 : 60'000;
    // Chunks: enough for many threads, few enough to keep their sums small: no more where tiles are small.
    constexpr int64_t kMostChunks = 32, kMostSums = 4 * 1024 * 1024;
    for (size_t i = first; i < last; ++i) image_cost_ += stage_cost<S>(network.stages[i]);
    const auto share = [](int64_t all, int64_t part) {
      return (all + part - 1) / std::max<int64_t>(part, 1);
    };
    tile_ = std::max(share(batch, kLeastTiles), share(least_cycles, image_cost_ + 1));
    tile_ = std::clamp<int64_t>(std::min(tile_, batch), 1, kMostTileImages);
    if (whole) tile_ = batch;
    const int64_t most_chunks = std::min((batch + tile_ - 1) / tile_, kMostChunks);
    if (!whole) tile_ = std::clamp<int64_t>(kTileValues / std::max<int64_t>(image_values(last), 1), 1, tile_);
    std::vector<bool> wanted = {purpose.input_grad};
    const auto reads_wanted = [&](int value) { return wanted[value]; };
    for (size_t i = 0; i < last; ++i) {
      wanted.push_back(network.gradient_wanted(i, [](int64_t) { return true; }, reads_wanted));
    }
    for (size_t i = first; i < last; ++i) {
      const Stage& stage = network.stages[i];
      const bool input_grad = std::ranges::any_of(stage.inputs, reads_wanted);
      stages_.push_back(make_stage_kernels<S>(stage, tile_, purpose.backward, input_grad));
      sum_offsets_.push_back(sums_);
      sums_ += stages_.back()->sums_size();
      needs_statistics_ = needs_statistics_ || stage.needs_statistics();
    }
    tiles_ = (batch + tile_ - 1) / tile_;
    chunks_ = std::clamp<int64_t>(kMostSums / std::max<int64_t>(sums_, 1), 2, kMostChunks);
    chunks_ = std::max<int64_t>(std::min(chunks_, most_chunks), 1);
    plan_values(purpose.backward);
    if (purpose.backward) plan_gradients();
  }

  // Its stages in the network.
  size_t begin() const { return first_; }
  size_t end() const { return first_ + stages_.size(); }
  StageKernels<S>& kernels(size_t stage) const { return *stages_[stage - first_]; }
  int64_t tile_images() const { return tile_; }
  int64_t tiles() const { return tiles_; }
  int64_t chunks() const { return chunks_; }
  bool contains(int value) const {
    return value > static_cast<int>(first_) && value <= static_cast<int>(end());
  }
  bool reads(int value) const { return last_reader(value) >= 0; }
  // Whether backward gives a gradient of it, as opposed to what that follows from.
  bool gives_gradient(int value) const {
    for (size_t i = begin(); i < end(); ++i) {
      const Stage& stage = network_.stages[i];
      if (!stage.needs_statistics() && std::ranges::count(stage.inputs, value) > 0) return true;
    }
    return false;
  }

  // Whether it needs the images, for a stage or for their statistics.
  bool uses_images() const { return uses_images_; }

  // The memory of a tile for values, for what pools leave, for gradients: elements or bytes, and where those of
  // a value or stage lie.
  int64_t values_size() const { return tile_ * values_.size(); }
  int64_t value_at(int value) const { return value_offsets_[value - 1 - first_]; }
  int64_t kept_size() const { return kept_offsets_.back(); }
  int64_t kept_at(size_t stage) const { return kept_offsets_[stage - first_]; }
  int64_t gradients_size() const { return tile_ * gradients_.size(); }
  int64_t gradient_at(int value) const { return gradient_offsets_[value - 1 - first_]; }
  // Of a gradient that is added to another one, of any value that a stage reads.
  int64_t added_size() const { return added_; }

  // About the cycles of one image.
  int64_t image_cost() const { return image_cost_; }

  // To be called before each pass.
  void set_parameters(const StageParameters<T>& parameters) {
    for (const auto& kernels : stages_) kernels->set_parameters(parameters);
  }

  // body(tile) for tiles of images, in parallel.
  template <class Body>
  void for_each_tile(const Body& body) const {
    parallel_for(tiles_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(tile(i));
    });
  }

  // body(tile, chunk, sink) for tiles of images, with what backward is to be given; then the pieces of all
  // gradients for `pieces`. Where this wants none: body for tiles, with a sink that wants none either.
  template <class Body>
  void with_gradients(const GradientSink<T>& pieces, const Body& body) {
    if (!needs_statistics_ && !pieces.is_wanted()) {
      return for_each_tile([&](const TileRange& tile) { body(tile, int64_t{0}, pieces); });
    }
    if (!needs_statistics_ && tiles_ == 1) return body(tile(0), int64_t{0}, pieces);
    Scratch<T> sums(chunks_ * sums_);
    parallel_for(chunks_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* const chunk_sums = sums.data() + chunk * sums_;
        std::fill_n(chunk_sums, sums_, T(0));
        const int64_t last = (chunk + 1) * tiles_ / chunks_;
        for (int64_t i = chunk * tiles_ / chunks_; i < last; ++i) {
          body(tile(i), chunk, GradientSink<T>::sums(chunk_sums));
        }
      }
    });
    add_chunks<S>(chunks_, sums_, sums.data());
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i]->finish_sums(sums.data() + sum_offsets_[i], pieces);
    }
  }

  // The part of a sink of the segment that is for a stage.
  GradientSink<T> part_of(const GradientSink<T>& sink, size_t stage) const {
    return sink.sums() == nullptr ? sink : GradientSink<T>::sums(sink.sums() + sum_offsets_[stage - first_]);
  }

 private:
  TileRange tile(int64_t i) const { return {i, i * tile_, std::min(tile_, batch_ - i * tile_)}; }

  // What stages up to `last` read and give of an image.
  int64_t image_values(size_t last) const {
    std::vector<int> values;
    for (size_t i = first_; i < last; ++i) {
      values.push_back(static_cast<int>(i) + 1);
      std::ranges::copy(network_.stages[i].inputs, std::back_inserter(values));
    }
    std::ranges::sort(values);
    values.erase(std::ranges::unique(values).begin(), values.end());
    int64_t count = 0;
    for (int value : values) count += network_.value_size(value);
    return count;
  }

  // The last stage of this segment that reads a value, -1 if none does.
  int last_reader(int value) const {
    for (size_t i = end(); i-- > begin();) {
      if (std::ranges::count(network_.stages[i].inputs, value) > 0) return static_cast<int>(i);
    }
    return -1;
  }
  bool is_output(int value) const {
    return std::ranges::any_of(network_.outputs, [&](const NetworkOutput& o) { return o.value == value; });
  }

  // A value lives until the last stage that reads it; before a backward pass until that.
  void plan_values(bool backward) {
    const int last = static_cast<int>(end());
    std::vector<int> slots;
    kept_offsets_ = {0};
    for (size_t i = begin(); i < end(); ++i) {
      const int value = static_cast<int>(i) + 1, birth = static_cast<int>(i);
      const int death = backward || is_output(value) ? last : std::max(last_reader(value), birth);
      slots.push_back(values_.add(network_.value_size(value), birth, death));
      kept_offsets_.push_back(kept_offsets_.back() + tile_ * network_.stages[i].argmax_words());
    }
    for (int slot : slots) value_offsets_.push_back(tile_ * values_.begin(slot));
    uses_images_ = first_ == 0 || reads(0);
  }

  // The gradient of a value lives from the last stage that reads it to the one that gave it.
  void plan_gradients() {
    const int last = static_cast<int>(end());
    std::vector<std::pair<int, int>> births;  // phase, value
    for (size_t i = begin(); i < end(); ++i) {
      const int value = static_cast<int>(i) + 1;
      const int reader = is_output(value) ? last : std::max(last_reader(value), static_cast<int>(i));
      births.emplace_back(last - reader, value);
      for (int input : network_.stages[i].inputs) {
        if (network_.readers(input) > 1) added_ = std::max(added_, tile_ * network_.value_size(input));
      }
    }
    std::ranges::stable_sort(births);
    std::vector<int> slots(stages_.size());
    for (const auto& [birth, value] : births) {
      slots[value - 1 - first_] = gradients_.add(network_.value_size(value), birth, last - (value - 1));
    }
    for (int slot : slots) gradient_offsets_.push_back(tile_ * gradients_.begin(slot));
  }

  const Network& network_;
  const size_t first_;
  const int64_t batch_;
  std::vector<std::unique_ptr<StageKernels<S>>> stages_;
  std::vector<int64_t> sum_offsets_;
  int64_t image_cost_ = 0, tile_, tiles_, chunks_, sums_ = 0, added_ = 0;
  bool needs_statistics_ = false, uses_images_ = false;
  Slots values_, gradients_;
  std::vector<int64_t> value_offsets_, kept_offsets_, gradient_offsets_;
};

}  // namespace lenet_ext::cpu
