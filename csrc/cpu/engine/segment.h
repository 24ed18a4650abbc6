// The fused engine: a chain of stages over a tile of images at a time, so that activations stay in the cache.
//
// The batch is cut into tiles of a size that depends on the batch size only. In a pass with parameter
// gradients, consecutive tiles form a fixed number of chunks; each chunk sums the gradients of its images in
// order, and the chunks' sums are added in order: results are the same for every number of threads.
#pragma once

#include <array>
#include <type_traits>

#include "cpu/engine/stage.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// Where the activations of images lie: stage by stage, `images` of each; and the taps of the pools.
template <class T>
struct Activations {
  T* values;
  uint8_t* taps;
  int64_t images;
};

template <class S>
class Net {
  using T = typename S::Scalar;

 public:
  // whole: the batch is a single tile.
  Net(const NetShape& shape, bool backward, bool input_grad, bool whole = false)
      : shape_(shape), backward_(backward), input_grad_(input_grad), whole_(whole) {
    constexpr int64_t kMostTileImages = 32, kLeastTiles = 4;
    tile_ = std::clamp<int64_t>((shape.batch + kLeastTiles - 1) / kLeastTiles, 1, kMostTileImages);
    if (whole) tile_ = shape.batch;
    int64_t values = 0, sums = 0, parameters = 0;
    for (size_t i = 0; i < shape_.stages.size(); ++i) {
      const StageShape& stage = shape_.stages[i];
      stages_.push_back(std::make_unique<NetStage<S>>(stage, tile_, backward, input_grad || i > 0));
      value_offsets_.push_back(values), sum_offsets_.push_back(sums);
      first_parameters_.push_back(static_cast<int>(parameter_offsets_.size()));
      for (int64_t size : {stage.weight_size, stage.bias_size}) {
        if (size > 0) parameter_offsets_.push_back(parameters), parameters += size;
      }
      values += stage.output_size, sums += stages_.back()->sums_size();
      largest_ = std::max({largest_, stage.input_size, stage.output_size});
    }
    values_ = values, sums_ = sums, parameters_ = parameters;
    // Chunks: enough for many threads, few enough to keep their sums small.
    constexpr int64_t kMostChunks = 32, kMostSums = 4 * 1024 * 1024;
    const int64_t tiles = (shape.batch + tile_ - 1) / tile_;
    chunks_ = std::clamp<int64_t>(kMostSums / std::max<int64_t>(sums_, 1), 2, kMostChunks);
    chunks_ = std::max<int64_t>(std::min(chunks_, tiles), 1);
    tiles_ = tiles;
  }

  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  // For this chain and batch size; from a few that each thread keeps, since planning (about 3 us for the
  // LeNet) counts beside the work on one image. Parameters are to be set before each pass. The nets hold
  // Scratch, which the thread's ScratchCache must outlive: it is made first.
  static std::shared_ptr<Net> of(const NetShape& shape, bool backward, bool input_grad, bool whole = false) {
    constexpr size_t kKept = 8;
    ScratchCache::of_this_thread();
    thread_local std::array<std::shared_ptr<Net>, kKept> kept;
    thread_local size_t next = 0;
    for (const auto& net : kept) {
      if (net && net->backward_ == backward && net->input_grad_ == input_grad && net->whole_ == whole &&
          net->shape_ == shape) {
        return net;
      }
    }
    next = (next + 1) % kKept;
    kept[next] = std::make_shared<Net>(shape, backward, input_grad, whole);
    return kept[next];
  }

  int64_t tile_images() const { return tile_; }
  int64_t output_size() const { return shape_.stages.back().output_size; }
  // Elements and bytes of the activations of so many images.
  int64_t values_size(int64_t images) const { return values_ * images; }
  int64_t taps_size(int64_t images) const { return shape_.tap_offset(shape_.stages.size(), images); }

  // The weight and, where the stage has one, the bias of every stage in order.
  void set_parameters(const T* const* parameters) {
    for (size_t i = 0; i < stages_.size(); ++i) {
      const StageShape& stage = shape_.stages[i];
      const T* weight = stage.weight_size > 0 ? *parameters++ : nullptr;
      const T* bias = stage.bias ? *parameters++ : nullptr;
      stages_[i]->set_parameters(weight, bias);
    }
  }

  // body(first, count) for tiles of images, in parallel.
  template <class Body>
  void for_each_tile(const Body& body) const {
    parallel_for(tiles_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i * tile_, std::min(tile_, shape_.batch - i * tile_));
    });
  }

  // Images [first, first + count) of `activations`; input: the first of them.
  void forward(int64_t count, const T* input, const Activations<T>& activations, int64_t first) const {
    for (size_t i = 0; i < stages_.size(); ++i) {
      T* const output = values(activations, i, first);
      stages_[i]->forward(count, input, output, taps(activations, i, first));
      input = output;
    }
  }

  const T* output(const Activations<T>& activations, int64_t first) const {
    return values(activations, stages_.size() - 1, first);
  }

  // Like forward. grads: two buffers of grads_size() elements, the first with the gradient of the output;
  // both are overwritten. sink: the partial sums of a chunk to add to (null: no parameter gradients), or for
  // the only tile what takes pieces of the gradients.
  template <class Sink>
  void backward(int64_t count, const T* input, const Activations<T>& activations, int64_t first,
                std::array<T*, 2> grads, T* grad_input, const Sink& sink) const {
    for (size_t i = stages_.size(); i-- > 0;) {
      const T* x = i == 0 ? input : values(activations, i - 1, first);
      const T* y = values(activations, i, first);
      T* const grad_x = i == 0 ? grad_input : grads[1];
      const uint8_t* const tap = taps(activations, i, first);
      if constexpr (std::is_pointer_v<Sink>) {
        stages_[i]->backward(count, x, y, tap, grads[0], grad_x,
                             sink == nullptr ? nullptr : sink + sum_offsets_[i]);
      } else {
        stages_[i]->backward_once(count, x, y, tap, grads[0], grad_x, [&](int parameter, auto... piece) {
          sink(first_parameters_[i] + parameter, piece...);
        });
      }
      std::swap(grads[0], grads[1]);
    }
  }
  int64_t grads_size() const { return tile_ * largest_; }

  // body(first, count, chunk, sink) for tiles of images, with what backward is to be given; and
  // use(parameter, first, count, gradient, factor) for pieces of the gradients of all parameters.
  template <class Body, class Use>
  void with_gradients(const Body& body, const Use& use) const {
    if (tiles_ == 1) return body(int64_t{0}, shape_.batch, int64_t{0}, use);
    Scratch<T> sums(chunks_ * sums_);
    parallel_for(chunks_, tile_ * image_cost(), [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* const chunk_sums = sums.data() + chunk * sums_;
        std::fill_n(chunk_sums, sums_, T(0));
        const int64_t last = (chunk + 1) * tiles_ / chunks_;
        for (int64_t i = chunk * tiles_ / chunks_; i < last; ++i) {
          body(i * tile_, std::min(tile_, shape_.batch - i * tile_), chunk, chunk_sums);
        }
      }
    });
    constexpr int64_t kBlock = 4096;
    parallel_for((sums_ + kBlock - 1) / kBlock, kBlock / 8 * chunks_, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kBlock, count = std::min(end * kBlock, sums_) - first;
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        add_row<S>(sums.data() + chunk * sums_ + first, sums.data() + first, count);
      }
    });
    for (size_t i = 0; i < stages_.size(); ++i) {
      const StageShape& stage = shape_.stages[i];
      if (stage.weight_size == 0) continue;
      const int parameter = first_parameters_[i];
      stages_[i]->with_gradients(sums.data() + sum_offsets_[i], [&](const T* weight, const T* bias) {
        use(parameter, int64_t{0}, stage.weight_size, weight, T(1));
        if (stage.bias) use(parameter + 1, int64_t{0}, stage.bias_size, bias, T(1));
      });
    }
  }
  int64_t chunks() const { return chunks_; }
  // Elements of all parameters before this one; and how many parameters and elements there are.
  int64_t parameter_offset(int parameter) const { return parameter_offsets_[parameter]; }
  int parameters() const { return static_cast<int>(parameter_offsets_.size()); }
  int64_t parameter_elements() const { return parameters_; }

 private:
  // About the cycles of one image.
  int64_t image_cost() const {
    int64_t cost = 0;
    for (const StageShape& stage : shape_.stages) {
      const int64_t pixels = stage.core == StageShape::Core::kConv2d
                                 ? stage.conv.out_height * stage.conv.out_width / stage.conv.groups
                                 : 1;
      cost += (stage.weight_size * pixels + stage.core_size) / S::width;
    }
    return cost;
  }
  T* values(const Activations<T>& activations, size_t stage, int64_t first) const {
    return activations.values + value_offsets_[stage] * activations.images +
           first * shape_.stages[stage].output_size;
  }
  uint8_t* taps(const Activations<T>& activations, size_t stage, int64_t first) const {
    if (activations.taps == nullptr) return nullptr;
    return activations.taps + shape_.tap_offset(stage, activations.images) +
           first * shape_.stages[stage].tap_bytes();
  }

  const NetShape shape_;  // which the stages refer to
  const bool backward_, input_grad_, whole_;
  std::vector<std::unique_ptr<NetStage<S>>> stages_;
  std::vector<int64_t> value_offsets_, sum_offsets_, parameter_offsets_;
  std::vector<int> first_parameters_;  // of each stage
  int64_t tile_, tiles_, chunks_, values_, sums_, parameters_, largest_ = 1;
};

}  // namespace lenet_ext::cpu
