// Forward and backward of tiles of images, each image a batch of its own, and what the gradients of the
// parameters of each image follow from:
//
//   of a linear layer with one row for each image   the row g of the gradient of what the layer gives, before its
//                                                   activation: that of the weight is the outer product of g and
//                                                   the row x that the layer reads, that of the bias is g
//   of another stage                                the sums that its backward leaves, in its own layout
//   of parameters that are used in several places   the gradients themselves, added up
//
// So linear layers go backward for a tile at once, and their weight gradients, most of the numbers, need not be
// formed one by one. (Goodfellow, "Efficient per-example gradient computations", 2015.)
#pragma once

#include <atomic>
#include <utility>

#include "cpu/engine/batch_loss.h"
#include "cpu/engine/network_run.h"
#include "engine/sample_passes.h"

namespace lenet_ext::cpu {

// What is kept of a stage.
enum class SampleWay { kNothing, kRows, kSums, kShared };

// at: where what is kept begins in that of an image, of `size` elements. Rows, sums and shared gradients are
// counted apart.
struct SampleStage {
  SampleWay way = SampleWay::kNothing;
  int64_t at = 0, size = 0;
};

template <class S, class Stored>
class SampleRun {
  using Run = NetworkRun<S, Stored>;

 public:
  using T = typename S::Scalar;

  SampleRun(const NetworkPtr& network, const SamplePass& pass)
      : network_(*network),
        pass_(pass),
        tile_images_(tile_images_of(*network, pass)),
        run_(network, pass.images, pass.parameters, pass.seed, {.backward = true, .by_image = true}, nullptr,
             tile_images_),
        shared_at_(network->parameter_sizes.size(), -1) {
    run_.want_gradients([&](int64_t parameter) { return is_wanted(parameter); }, nullptr);
    for (size_t i = 0; i < network_.stages.size(); ++i) stages_.push_back(kept_of(i));
  }

  const Network& network() const { return network_; }
  const std::vector<SampleStage>& stages() const { return stages_; }
  StageKernels<S>& kernels(size_t stage) const { return run_.engine().kernels(stage); }
  int64_t place(int64_t parameter) const { return parameter < 0 ? -1 : pass_.places[parameter]; }
  bool is_wanted(int64_t parameter) const { return place(parameter) >= 0; }
  // Whether all gradients of a stage are.
  bool wants_all(size_t stage) const {
    return std::ranges::all_of(network_.stages[stage].trained, [&](int64_t i) { return is_wanted(i); });
  }
  // Of the gradients that are shared: elements for an image, and body(parameter, at, size) for each, of its first
  // parameter: where it begins among these.
  int64_t shared_size() const { return shared_; }
  template <class Body>
  void for_each_shared(const Body& body) const {
    for (size_t i = 0; i < shared_at_.size(); ++i) {
      if (shared_at_[i] >= 0) body(static_cast<int>(i), shared_at_[i], network_.parameter_sizes[i]);
    }
  }
  // Whether there was an output without a loss.
  bool is_refused() const { return refused_.load(std::memory_order_relaxed); }

  int64_t tile_images() const { return tile_images_; }
  int64_t tiles() const { return (pass_.images.count + tile_images_ - 1) / tile_images_; }
  int64_t tile_cost() const { return tile_images_ * run_.engine().segment(0).image_cost(); }

  // What a thread keeps of a tile.
  class Tile {
   public:
    explicit Tile(SampleRun& run)
        : run_(run),
          rows_(run.tile_images_ * run.rows_),
          sums_(run.tile_images_ * run.sums_),
          shared_(run.tile_images_ * run.shared_) {}

    // Images of tile `index` forward and backward, then body(first, count, values): the first one, how many, and
    // the values of the network. Returns the sum of their losses.
    template <class Body>
    double run(int64_t index, const Body& body) {
      const Segment<S>& segment = run_.run_.engine().segment(0);
      const int64_t first = index * run_.tile_images_;
      const int64_t count = std::min(run_.tile_images_, run_.pass_.images.count - first);
      typename Run::Tile tile(run_.run_, segment, {index, first, count}, true);
      typename Run::TileGradients gradients(run_.run_, run_.run_.engine().segment(0), tile);
      run_.run_.forward(segment, tile);
      const int output = run_.network_.outputs[0].value;
      const double loss = run_.losses(first, count, tile.value(output), gradients.output(output));
      gradients.written(output);
      std::fill_n(shared_.data(), count * run_.shared_, T(0));
      gradients.for_each_stage([&](size_t i, const StageCall<T>& call, T* grad_output,
                                   T* const* grad_inputs) { backward(i, call, grad_output, grad_inputs); });
      body(first, count, tile.values());
      return loss;
    }

    // Of the images of the last run(): count rows for a stage of that way.
    T* rows(const SampleStage& stage) { return rows_.data() + stage.at * run_.tile_images_; }
    T* sums(const SampleStage& stage) { return sums_.data() + stage.at * run_.tile_images_; }
    T* shared() { return shared_.data(); }

   private:
    void backward(size_t i, const StageCall<T>& call, T* grad_output, T* const* grad_inputs) {
      const SampleStage& stage = run_.stages_[i];
      StageKernels<S>& kernels = run_.kernels(i);
      if (stage.way == SampleWay::kNothing || stage.way == SampleWay::kRows) {
        kernels.backward(call, grad_output, grad_inputs, GradientSink<T>::none());
        if (stage.way == SampleWay::kRows) copy_row<S>(grad_output, rows(stage), call.count * stage.size);
        return;
      }
      // In parallel where the tiles are not.
      parallel_for(call.count, stage_cost<S>(run_.network_.stages[i]), [&](int64_t begin, int64_t end) {
        backward_of_images(i, call, grad_output, grad_inputs, begin, end);
      });
    }

    // Of a stage that goes backward image by image: images [begin, end) of the tile.
    void backward_of_images(size_t i, const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                            int64_t begin, int64_t end) {
      const SampleStage& stage = run_.stages_[i];
      StageKernels<S>& kernels = run_.kernels(i);
      const Stage& shape = run_.network_.stages[i];
      const auto inputs = static_cast<int64_t>(shape.inputs.size());
      const bool is_shared = stage.way == SampleWay::kShared;
      Scratch<const T*> values(static_cast<int64_t>(run_.network_.stages.size()) + 1);
      Scratch<T*> gradients(inputs);
      Scratch<T> unshared(is_shared ? stage.size : 0);
      for (int64_t image = begin; image < end; ++image) {
        for (int64_t k = 0; k < inputs; ++k) {
          const int value = call.inputs[k];
          const int64_t first = image * run_.network_.value_size(value);
          values[value] = call.values[value] + first;
          gradients[k] = grad_inputs[k] == nullptr ? nullptr : grad_inputs[k] + first;
        }
        const StageCall<T> one{
            .first = call.first + image,
            .count = 1,
            .values = values.data(),
            .inputs = call.inputs,
            .output = call.output + image * shape.output_size,
            .kept = call.kept == nullptr ? nullptr : call.kept + image * shape.argmax_bytes()};
        T* const to = is_shared ? unshared.data() : sums(stage) + image * stage.size;
        std::fill_n(to, stage.size, T(0));
        kernels.backward(one, grad_output + image * shape.output_size, gradients.data(),
                         GradientSink<T>::sums(to));
        if (is_shared) add_shared(kernels, to, shared_.data() + image * run_.shared_);
      }
    }

    void add_shared(StageKernels<S>& kernels, const T* sums, T* gradients) {
      const auto add = [&](const GradientPiece<T>& piece) {
        const int64_t place = run_.place(piece.parameter);
        if (place >= 0) write_piece<S>(piece, true, gradients + run_.shared_at_[run_.first_at(place)]);
      };
      kernels.finish_sums(sums, GradientSink<T>::pieces(add));
    }

    SampleRun& run_;
    Scratch<T> rows_, sums_, shared_;
  };

 private:
  static bool gives_rows(const Stage& stage) {
    return stage.core == LayerKind::kLinear && stage.linear.rows == 1;
  }

  // From sizes alone. The gradients of linear layers that read a row of each image are not in memory; others
  // may together be as large as the parameters, beyond what stays in the cache, as they are read once. A weight
  // too large for the cache is to be read for as many images as can be.
  static int64_t tile_images_of(const Network& network, const SamplePass& pass) {
    constexpr int64_t kMostTileImages = 16, kMostImagesOfWide = 64, kLeastTiles = 4;
    constexpr int64_t kTileValues = 256 * 1024;     // 1 MiB of float32, a second-level cache
    constexpr int64_t kTileGradients = 512 * 1024;  // or the number of all parameters
    int64_t values = network.image_size(), gradients = 1, parameters = 0;
    bool any_wide = false;
    for (const int64_t size : network.parameter_sizes) parameters += size;
    for (const Stage& stage : network.stages) {
      values += stage.output_size;
      if (gives_rows(stage)) {
        any_wide = any_wide || is_wide(stage);
        continue;
      }
      for (int64_t parameter : stage.trained) gradients += network.parameter_sizes[parameter];
    }
    const int64_t wanted = any_wide ? pass.images.count : (pass.images.count + kLeastTiles - 1) / kLeastTiles;
    int64_t most = std::clamp<int64_t>(wanted, 1, any_wide ? kMostImagesOfWide : kMostTileImages);
    if (!any_wide) most = std::clamp<int64_t>(kTileValues / std::max<int64_t>(values, 1), 1, most);
    return std::clamp<int64_t>(std::max(kTileGradients, parameters) / gradients, 1, most);
  }

  // The first parameter whose gradient is at `place`.
  size_t first_at(int64_t place) const {
    return std::ranges::find(pass_.places, place) - pass_.places.begin();
  }
  // How often these are used.
  int readers(int64_t place) const {
    int count = 0;
    for (size_t i = 0; i < pass_.places.size(); ++i) {
      if (pass_.places[i] == place) count += network_.parameter_readers[i];
    }
    return count;
  }

  SampleStage kept_of(size_t i) {
    const Stage& stage = network_.stages[i];
    const auto wanted = [&](int64_t parameter) { return is_wanted(parameter); };
    if (std::ranges::none_of(stage.trained, wanted)) return {};
    const auto reserve = [](int64_t& total, int64_t size) { return std::exchange(total, total + size); };
    const int64_t sums = kernels(i).sums_size();
    if (std::ranges::any_of(stage.trained, [&](int64_t p) { return wanted(p) && readers(place(p)) > 1; })) {
      for (int64_t parameter : stage.trained) {
        if (!wanted(parameter)) continue;
        int64_t& at = shared_at_[first_at(place(parameter))];
        if (at < 0) at = reserve(shared_, network_.parameter_sizes[parameter]);
      }
      return {SampleWay::kShared, 0, sums};
    }
    if (gives_rows(stage)) {
      return {SampleWay::kRows, reserve(rows_, stage.core_size), stage.core_size};
    }
    return {SampleWay::kSums, reserve(sums_, sums), sums};
  }

  // The sum of the losses of some images; grads become the gradients of each one's own.
  double losses(int64_t first, int64_t count, const T* outputs, T* grads) {
    const int64_t size = network_.output_size();
    double sum = 0;
    for (int64_t image = first; image < first + count; ++image, outputs += size, grads += size) {
      const int64_t source = source_image(pass_.images, image);
      TrainPass one{};
      one.images = pass_.images, one.targets = pass_.targets, one.loss = pass_.loss;
      one.images.count = 1, one.images.order = &source;
      one.loss.weight = behind(one.loss.weight, image * one.loss.weight_step);
      one.loss.pos_weight = behind(one.loss.pos_weight, image * one.loss.pos_weight_step);
      BatchLoss<S, Stored> loss(network_, one);
      sum += loss.of_tile(0, 1, outputs, grads);
      if (loss.is_refused()) refused_.store(true, std::memory_order_relaxed);
    }
    return sum;
  }
  static const void* behind(const void* values, int64_t count) {
    return values == nullptr ? nullptr : static_cast<const Stored*>(values) + count;
  }

  const Network& network_;
  const SamplePass& pass_;
  const int64_t tile_images_;
  Run run_;
  std::vector<SampleStage> stages_;
  std::vector<int64_t> shared_at_;  // by the first parameter of a place; -1 for those that are not shared
  int64_t rows_ = 0, sums_ = 0, shared_ = 0;
  std::atomic<bool> refused_ = false;
};

}  // namespace lenet_ext::cpu
