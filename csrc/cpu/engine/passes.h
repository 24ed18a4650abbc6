// The passes of the fused engine: inference or the forward half of training, backward, a whole training step.
// Each takes the segments in turn, and each segment tile by tile.
#pragma once

#include "cpu/engine/collected_gradients.h"
#include "cpu/engine/engine.h"
#include "cpu/engine/tensors.h"

namespace lenet_ext::cpu {

// What a segment reads, tile by tile: images of the tensor, or what the segment before left of the whole
// batch.
template <class S, class Stored>
class SegmentInput {
  using T = typename S::Scalar;

 public:
  SegmentInput(const Network& network, const Images& images) : network_(network), images_(images) {}

  // The next segment reads this, `size` elements of each image.
  void set_values(const T* values, int64_t size) { values_ = values, size_ = size; }

  // Memory of a tile, where one is needed for images.
  int64_t memory_size(const Segment<S>& segment) const {
    return values_ != nullptr ? 0 : segment.tile_images() * network_.image_size();
  }
  const T* load(int64_t first, int64_t count, T* memory) const {
    if (values_ != nullptr) return values_ + first * size_;
    return load_images<S, Stored>(network_, images_, first, count, memory);
  }

 private:
  const Network& network_;
  const Images& images_;
  const T* values_ = nullptr;
  int64_t size_ = 0;
};

template <class S, class Stored>
void network_forward(const NetworkPtr& network, const ForwardPass& pass) {
  using T = typename S::Scalar;
  const int64_t batch = pass.images.count;
  const WideParameters<S, Stored> parameters(*network, pass.parameters);
  const auto engine = Engine<S>::of(network, batch, {});
  engine->set_parameters(parameters.pointers());
  const bool saves = pass.saved != nullptr;
  const Activations<T> saved{static_cast<T*>(pass.saved), pass.argmax, batch};
  std::optional<Scratch<T>> between[2];  // the output of a segment, of the whole batch; by turns
  SegmentInput<S, Stored> input(*network, pass.images);
  for (size_t i = 0; i < engine->segments().size(); ++i) {
    const Segment<S>& segment = engine->segments()[i];
    const bool is_last = i + 1 == engine->segments().size();
    const int64_t tile = segment.tile_images(), out = segment.output_size();
    T* const next = is_last || saves ? nullptr : between[i % 2].emplace(batch * out).data();
    segment.for_each_tile([&](int64_t first, int64_t count) {
      Scratch<T> images(input.memory_size(segment)), values(saves ? 0 : tile * segment.values_size());
      const Activations<T> kept =
          saves ? segment.part_of(saved) : Activations<T>{values.data(), nullptr, tile};
      const int64_t place = saves ? first : 0;
      segment.forward(count, input.load(first, count, images.data()), kept, place);
      const T* const output = segment.output(kept, place);
      if (is_last) {
        copy_row<S>(output, static_cast<Stored*>(pass.output) + first * out, count * out);
      } else if (!saves) {
        std::copy_n(output, count * out, next + first * out);
      }
    });
    input.set_values(saves ? segment.output(segment.part_of(saved), 0) : next, out);
  }
}

// Takes segments backward, the last one first: the gradient of what one read is that of what the one before
// it gave.
template <class S, class Stored>
class BackwardChain {
  using T = typename S::Scalar;

 public:
  // saved: the activations of the network, of the whole batch, as far as later segments read them. pieces:
  // takes the gradients of parameters. wanted: the first stage with a gradient that is wanted. grad_images:
  // where the gradient of the images goes, or null.
  BackwardChain(const Network& network, const Images& images, const Engine<S>& engine,
                const Activations<T>& saved, const GradientSink<T>& pieces, size_t wanted,
                Stored* grad_images)
      : network_(network),
        images_(images),
        engine_(engine),
        saved_(saved),
        pieces_(pieces),
        wanted_(wanted),
        grad_images_(grad_images) {}

  // Whether anything that is wanted lies in segment i or before.
  bool reaches(size_t i) const { return wanted_ < engine_.segments()[i].end(); }

  // Segment i: begin(first, count, chunk, x, grad, backward) has the images of a tile, brings the gradient of
  // their output into `grad`, and calls backward(activations, place) for where their activations lie.
  template <class Begin>
  void run(size_t i, const Begin& begin) {
    const Segment<S>& segment = engine_.segments()[i];
    const bool is_first = i == 0, passes_on = !is_first && reaches(i - 1);
    const int64_t in = segment.input_size(), tile = segment.tile_images();
    const SegmentInput<S, Stored> input = input_of(i);
    T* const before = grads_between_[i % 2].emplace(passes_on ? images_.count * in : 0).data();
    segment.with_gradients(pieces_, [&](int64_t first, int64_t count, int64_t chunk, const auto& sink) {
      const bool takes_images = is_first && grad_images_ != nullptr;
      Scratch<T> images(input.memory_size(segment)), grads(2 * segment.grads_size());
      Scratch<T> grad_x(takes_images ? tile * in : 0);
      const T* x = input.load(first, count, images.data());
      begin(first, count, chunk, x, grads.data(), [&](const Activations<T>& kept, int64_t place) {
        T* const to = passes_on ? before + first * in : takes_images ? grad_x.data() : nullptr;
        segment.backward(count, x, kept, place, {grads.data(), grads.data() + segment.grads_size()}, to, sink,
                         wanted_);
        if (takes_images) copy_row<S>(grad_x.data(), grad_images_ + first * in, count * in);
      });
    });
  }

  // The segments before segment i, which ran.
  void run_all_before(size_t i) {
    while (i-- > 0 && reaches(i)) {
      const Segment<S>& segment = engine_.segments()[i];
      const int64_t out = segment.output_size();
      const T* const grad_output = grads_between_[(i + 1) % 2]->data();
      run(i, [&](int64_t first, int64_t count, int64_t, const T*, T* grad, const auto& backward) {
        std::copy_n(grad_output + first * out, count * out, grad);
        backward(segment.part_of(saved_), first);
      });
    }
  }

 private:
  SegmentInput<S, Stored> input_of(size_t i) const {
    SegmentInput<S, Stored> input(network_, images_);
    if (i > 0) {
      const Segment<S>& before = engine_.segments()[i - 1];
      input.set_values(before.output(before.part_of(saved_), 0), before.output_size());
    }
    return input;
  }

  const Network& network_;
  const Images& images_;
  const Engine<S>& engine_;
  const Activations<T> saved_;
  const GradientSink<T> pieces_;
  const size_t wanted_;
  Stored* const grad_images_;
  std::optional<Scratch<T>> grads_between_[2];  // of what a segment read, of the whole batch; by turns
};

template <class S, class Stored>
void network_backward(const NetworkPtr& network, const BackwardPass& pass) {
  using T = typename S::Scalar;
  const int64_t batch = pass.images.count;
  const WideParameters<S, Stored> parameters(*network, pass.parameters);
  const auto engine = Engine<S>::of(network, batch, {true, pass.grad_input != nullptr});
  engine->set_parameters(parameters.pointers());
  const Activations<T> saved{static_cast<T*>(const_cast<void*>(pass.saved)),
                             const_cast<uint8_t*>(pass.argmax), batch};
  const auto take = [&](auto... piece) { write_gradient<S, Stored>(pass, piece...); };
  const auto pieces =
      pass.grad_parameters == nullptr ? GradientSink<T>::none() : GradientSink<T>::pieces(take);
  BackwardChain<S, Stored> chain(*network, pass.images, *engine, saved, pieces, 0,
                                 static_cast<Stored*>(pass.grad_input));
  const size_t last = engine->segments().size() - 1;
  const Segment<S>& segment = engine->segments()[last];
  chain.run(last, [&](int64_t first, int64_t count, int64_t, const T*, T* grad, const auto& backward) {
    const int64_t out = segment.output_size();
    copy_row<S>(static_cast<const Stored*>(pass.grad_output) + first * out, grad, count * out);
    backward(segment.part_of(saved), first);
  });
  chain.run_all_before(last);
}

// Forward through all segments but the last, for the whole batch; then the last one forward, the loss, and
// backward tile by tile; then the others backward.
template <class S, class Stored>
void network_train(const NetworkPtr& network, const TrainPass& pass) {
  using T = typename S::Scalar;
  const int64_t batch = pass.images.count;
  const WideParameters<S, Stored> parameters(*network, pass.parameters);
  const auto engine = Engine<S>::of(network, batch, {true, false});
  engine->set_parameters(parameters.pointers());
  const auto& segments = engine->segments();
  const size_t last = segments.size() - 1;
  const size_t kept_stages = segments[last].begin();
  Scratch<T> values(batch * network->values_before(kept_stages));
  Scratch<uint8_t> argmax(batch * network->argmax_before(kept_stages));
  const Activations<T> saved{values.data(), argmax.data(), batch};
  SegmentInput<S, Stored> input(*network, pass.images);
  for (size_t i = 0; i < last; ++i) {
    const Activations<T> kept = segments[i].part_of(saved);
    segments[i].for_each_tile([&](int64_t first, int64_t count) {
      Scratch<T> images(input.memory_size(segments[i]));
      segments[i].forward(count, input.load(first, count, images.data()), kept, first);
    });
    input.set_values(segments[i].output(kept, 0), segments[i].output_size());
  }

  Scratch<StepRow> rows(static_cast<int64_t>(network->parameter_sizes.size()));
  begin_step(*network, pass, rows.data());
  std::optional<CollectedGradients<S, Stored>> collected;
  if (CollectedGradients<S, Stored>::are_needed(*network, pass)) {
    collected.emplace(*network, pass, rows.data());
  }
  const auto take = [&](int parameter, auto... piece) {
    if (collected) return collected->add(parameter, piece...);
    update_parameter<S, Stored>(*network, pass, rows.data(), parameter, piece...);
  };
  BackwardChain<S, Stored> chain(*network, pass.images, *engine, saved, GradientSink<T>::pieces(take),
                                 first_trained_stage(*network, pass), nullptr);
  const Segment<S>& segment = segments[last];
  const int64_t tile = segment.tile_images();
  std::vector<double> losses(segment.chunks());
  chain.run(last,
            [&](int64_t first, int64_t count, int64_t chunk, const T* x, T* grad, const auto& backward) {
              Scratch<T> tile_values(tile * segment.values_size());
              Scratch<uint8_t> tile_argmax(tile * segment.argmax_size());
              const Activations<T> kept{tile_values.data(), tile_argmax.data(), tile};
              segment.forward(count, x, kept, 0);
              losses[chunk] +=
                  loss_and_gradient<S, Stored>(*network, pass, first, count, segment.output(kept, 0), grad);
              backward(kept, 0);
            });
  chain.run_all_before(last);
  if (collected) collected->update();
  double mean = 0;
  for (double loss : losses) mean += loss / loss_terms(*network, pass.images);
  from_compute(static_cast<T>(mean), *static_cast<Stored*>(pass.mean_loss));
}

}  // namespace lenet_ext::cpu
