// A segment of a network: stages that tiles of a few images run through, so that activations stay in the
// cache.
//
// The batch is cut into tiles of a size that depends on the batch size only. In a pass with parameter
// gradients, consecutive tiles form a fixed number of chunks; each chunk sums the gradients of its images in
// order, and the chunks' sums are added in order: results are the same for every number of threads.
#pragma once

#include <array>

#include "cpu/engine/stage.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// Where the activations of images lie: stage by stage, `images` of each; and the argmax of the pools.
template <class T>
struct Activations {
  T* values;
  uint8_t* argmax;  // or null
  int64_t images;
};

// Which of a pass's results are wanted.
struct Purpose {
  bool backward = false, input_grad = false;

  bool operator==(const Purpose&) const = default;
};

template <class S>
class Segment {
  using T = typename S::Scalar;

 public:
  // Stages [first, last) of the network. whole: the batch is a single tile.
  Segment(const Network& network, size_t first, size_t last, int64_t batch, bool whole, Purpose purpose)
      : network_(network), first_(first), batch_(batch) {
    constexpr int64_t kMostTileImages = 32, kLeastTiles = 4;
    tile_ = whole ? batch : std::clamp<int64_t>((batch + kLeastTiles - 1) / kLeastTiles, 1, kMostTileImages);
    for (size_t i = first; i < last; ++i) {
      const Stage& stage = network.stages[i];
      stages_.push_back(
          std::make_unique<StageKernels<S>>(stage, tile_, purpose.backward, purpose.input_grad || i > 0));
      value_offsets_.push_back(values_), argmax_offsets_.push_back(argmax_), sum_offsets_.push_back(sums_);
      values_ += stage.output_size, argmax_ += stage.argmax_words(), sums_ += stages_.back()->sums_size();
      largest_ = std::max({largest_, stage.input_size, stage.output_size});
    }
    // Chunks: enough for many threads, few enough to keep their sums small.
    constexpr int64_t kMostChunks = 32, kMostSums = 4 * 1024 * 1024;
    tiles_ = (batch + tile_ - 1) / tile_;
    chunks_ = std::clamp<int64_t>(kMostSums / std::max<int64_t>(sums_, 1), 2, kMostChunks);
    chunks_ = std::max<int64_t>(std::min(chunks_, tiles_), 1);
  }

  // Its stages in the network.
  size_t begin() const { return first_; }
  size_t end() const { return first_ + stages_.size(); }
  int64_t tile_images() const { return tile_; }
  int64_t chunks() const { return chunks_; }
  // Of an image: elements in and out; elements and bytes of all activations.
  int64_t input_size() const { return stage(0).input_size; }
  int64_t output_size() const { return stage(stages_.size() - 1).output_size; }
  int64_t values_size() const { return values_; }
  int64_t argmax_size() const { return argmax_; }
  // Of a tile.
  int64_t grads_size() const { return tile_ * largest_; }

  // The part of this segment, where `all` holds those of the whole network.
  Activations<T> part_of(const Activations<T>& all) const {
    return {all.values + network_.values_before(first_) * all.images,
            all.argmax == nullptr ? nullptr : all.argmax + network_.argmax_before(first_) * all.images,
            all.images};
  }

  // parameters: all of the network. To be called before each pass.
  void set_parameters(const T* const* parameters) {
    for (const auto& kernels : stages_) kernels->set_parameters(parameters);
  }

  // body(first, count) for tiles of images, in parallel.
  template <class Body>
  void for_each_tile(const Body& body) const {
    parallel_for(tiles_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i * tile_, std::min(tile_, batch_ - i * tile_));
    });
  }

  // Images [first, first + count) of `activations`; input: the first of them.
  void forward(int64_t count, const T* input, const Activations<T>& activations, int64_t first) const {
    for (size_t i = 0; i < stages_.size(); ++i) {
      T* const output = values(activations, i, first);
      stages_[i]->forward(count, input, output, argmax(activations, i, first));
      input = output;
    }
  }
  const T* output(const Activations<T>& activations, int64_t first) const {
    return values(activations, stages_.size() - 1, first);
  }

  // Like forward. grads: two buffers of grads_size() elements, the first with the gradient of the output;
  // both are overwritten. grad_input may be null. sink: the sums of a chunk, or what takes pieces. The
  // gradients that are wanted are those of the network's stages from `wanted` on.
  void backward(int64_t count, const T* input, const Activations<T>& activations, int64_t first,
                std::array<T*, 2> grads, T* grad_input, const GradientSink<T>& sink,
                size_t wanted = 0) const {
    const size_t last = wanted > first_ ? wanted - first_ : 0;
    for (size_t i = stages_.size(); i-- > last;) {
      const T* x = i == 0 ? input : values(activations, i - 1, first);
      const T* y = values(activations, i, first);
      const bool own_sums = sink.sums() != nullptr;
      stages_[i]->backward(count, x, y, argmax(activations, i, first), grads[0],
                           i == 0                    ? grad_input
                           : i == last && wanted > 0 ? nullptr
                                                     : grads[1],
                           own_sums ? GradientSink<T>::sums(sink.sums() + sum_offsets_[i]) : sink);
      std::swap(grads[0], grads[1]);
    }
  }

  // body(first, count, chunk, sink) for tiles of images, with what backward is to be given; then the pieces
  // of all gradients for `pieces`. Where this wants none: body for tiles, with a sink that wants none either.
  template <class Body>
  void with_gradients(const GradientSink<T>& pieces, const Body& body) const {
    if (!pieces.is_wanted()) {
      return for_each_tile([&](int64_t first, int64_t count) { body(first, count, int64_t{0}, pieces); });
    }
    if (tiles_ == 1) return body(int64_t{0}, batch_, int64_t{0}, pieces);
    Scratch<T> sums(chunks_ * sums_);
    parallel_for(chunks_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* const chunk_sums = sums.data() + chunk * sums_;
        std::fill_n(chunk_sums, sums_, T(0));
        const int64_t last = (chunk + 1) * tiles_ / chunks_;
        for (int64_t i = chunk * tiles_ / chunks_; i < last; ++i) {
          body(i * tile_, std::min(tile_, batch_ - i * tile_), chunk, GradientSink<T>::sums(chunk_sums));
        }
      }
    });
    add_chunks(sums.data());
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i]->finish_sums(sums.data() + sum_offsets_[i], pieces);
    }
  }

 private:
  const Stage& stage(size_t i) const { return network_.stages[first_ + i]; }
  T* values(const Activations<T>& activations, size_t i, int64_t first) const {
    return activations.values + value_offsets_[i] * activations.images + first * stage(i).output_size;
  }
  uint8_t* argmax(const Activations<T>& activations, size_t i, int64_t first) const {
    if (activations.argmax == nullptr) return nullptr;
    return activations.argmax + argmax_offsets_[i] * activations.images + first * stage(i).argmax_bytes();
  }

  // The sums of all chunks to those of the first.
  void add_chunks(T* sums) const {
    constexpr int64_t kBlock = 4096;
    parallel_for((sums_ + kBlock - 1) / kBlock, kBlock / 8 * chunks_, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kBlock, count = std::min(end * kBlock, sums_) - first;
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        add_row<S>(sums + chunk * sums_ + first, sums + first, count);
      }
    });
  }

  // About the cycles of one image.
  int64_t image_cost() const {
    int64_t cost = 0;
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Stage& s = stage(i);
      const int64_t pixels =
          s.core == Stage::Core::kConv2d ? s.conv.out_height * s.conv.out_width / s.conv.groups : 1;
      cost += (s.weight_size * pixels + s.core_size) / S::width;
    }
    return cost;
  }

  const Network& network_;
  const size_t first_;
  const int64_t batch_;
  std::vector<std::unique_ptr<StageKernels<S>>> stages_;
  std::vector<int64_t> value_offsets_, argmax_offsets_, sum_offsets_;
  int64_t tile_, tiles_, chunks_, values_ = 0, argmax_ = 0, sums_ = 0, largest_ = 1;
};

}  // namespace lenet_ext::cpu
