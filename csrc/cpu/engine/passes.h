// The passes of the fused engine: inference or the forward half of training, backward, a whole training step.
// Each takes the segments in turn, and each segment tile by tile.
#pragma once

#include "cpu/engine/batch_loss.h"
#include "cpu/engine/collected_gradients.h"
#include "cpu/engine/network_run.h"

namespace lenet_ext::cpu {

// Where the values of the whole batch lie in `saved`.
template <class S, class Stored>
void set_saved(NetworkRun<S, Stored>& run, const Network& network, typename S::Scalar* saved,
               uint8_t* argmax) {
  for (size_t i = 0; i < network.stages.size(); ++i) {
    run.set_values(static_cast<int>(i) + 1, saved + network.values_before(i) * run.batch());
    if (network.stages[i].argmax_bytes() > 0)
      run.set_kept(i, argmax + network.argmax_before(i) * run.batch());
  }
}

// Where `saves` is not set, nothing but the outputs is kept.
template <class S, class Stored>
void write_outputs(NetworkRun<S, Stored>& run, const Network& network, bool saves, void* const* outputs) {
  run.observe_all();
  for (size_t i = 1; !saves && i <= network.stages.size(); ++i) {
    const int value = static_cast<int>(i);
    if (run.engine().crosses(value)) run.set_values(value, run.batch_memory(network.value_size(value)));
  }
  for (size_t i = 0; i < run.engine().segments(); ++i) {
    const Segment<S>& segment = run.engine().segment(i);
    run.begin(segment);
    segment.for_each_tile([&](const TileRange& range) {
      typename NetworkRun<S, Stored>::Tile tile(run, segment, range, false);
      run.forward(segment, tile);
      for (size_t k = 0; k < network.outputs.size(); ++k) {
        const int value = network.outputs[k].value;
        if (!segment.contains(value)) continue;
        const int64_t size = network.value_size(value);
        copy_row<S>(tile.value(value), static_cast<Stored*>(outputs[k]) + range.first * size,
                    range.count * size);
      }
    });
  }
}

template <class S, class Stored>
void network_forward(const NetworkPtr& network, const ForwardPass& pass) {
  using T = typename S::Scalar;
  const int64_t batch = pass.images.count;
  const bool saves = pass.saved != nullptr;
  const size_t stages = network->stages.size();
  T* const saved = static_cast<T*>(pass.saved);
  NetworkRun<S, Stored> run(network, pass.images, pass.parameters, pass.seed, {},
                            saves ? saved + batch * network->values_before(stages) : nullptr);
  if (saves) set_saved(run, *network, saved, pass.argmax);
  write_outputs(run, *network, saves, pass.outputs);
}

template <class S, class Stored>
void network_backward(const NetworkPtr& network, const BackwardPass& pass) {
  using T = typename S::Scalar;
  constexpr bool kSame = std::is_same_v<T, Stored>;
  const int64_t batch = pass.images.count;
  const size_t stages = network->stages.size();
  T* const saved = static_cast<T*>(const_cast<void*>(pass.saved));
  const bool of_images = pass.grad_input != nullptr, of_parameters = pass.grad_parameters != nullptr;
  NetworkRun<S, Stored> run(network, pass.images, pass.parameters, pass.seed, {true, of_images},
                            saved + batch * network->values_before(stages));
  set_saved(run, *network, saved, const_cast<uint8_t*>(pass.argmax));
  for (size_t i = 0; i < stages; ++i) {
    const Stage& stage = network->stages[i];
    if (!stage.needs_statistics()) continue;
    const T* const statistics =
        saved + batch * network->values_before(stages) + network->statistics_before(i);
    run.engine().kernels(i).statistics()->set_statistics(statistics);
  }
  T* images = nullptr;
  if (of_images) images = kSame ? static_cast<T*>(pass.grad_input) : run.batch_memory(network->image_size());
  run.want_gradients([&](int64_t) { return of_parameters; }, images);
  const auto take = [&](const GradientPiece<T>& piece) {
    const bool adds = network->parameter_readers[piece.parameter] > 1;  // to those of other layers
    write_piece<S>(piece, adds, static_cast<Stored*>(pass.grad_parameters[piece.parameter]));
  };
  const auto pieces = of_parameters ? GradientSink<T>::pieces(take) : GradientSink<T>::none();
  for (size_t i = run.engine().segments(); i-- > 0;) {
    Segment<S>& segment = run.engine().segment(i);
    if (!run.reaches(segment)) continue;
    run.backward(segment, pieces, false, [&](auto& tile, int64_t, auto& gradients, const auto& backward) {
      for (size_t k = 0; k < network->outputs.size(); ++k) {
        const int value = network->outputs[k].value;
        if (!segment.contains(value)) continue;
        const int64_t size = network->value_size(value);
        copy_row<S>(static_cast<const Stored*>(pass.grad_outputs[k]) + tile.range.first * size,
                    gradients.output(value), tile.range.count * size);
        gradients.written(value);
      }
      backward();
    });
  }
  run.finish_images();
  if (of_images && !kSame)
    copy_row<S>(images, static_cast<Stored*>(pass.grad_input), batch * network->image_size());
}

// Forward through all segments but the last, for the whole batch; then the last one forward, the loss, and
// backward tile by tile; then the others backward.
template <class S, class Stored>
void network_train(const NetworkPtr& network, const TrainPass& pass) {
  using T = typename S::Scalar;
  const int64_t batch = pass.images.count;
  T* const statistics = static_cast<T*>(pass.statistics);
  NetworkRun<S, Stored> run(network, pass.images, pass.parameters, pass.seed, {true, false}, statistics);
  run.observe_all();
  const size_t last = run.engine().segments() - 1;
  const size_t kept_stages = run.engine().segment(last).begin();
  Scratch<T> values(batch * network->values_before(kept_stages));
  // Of a stage that needs statistics, which begins the last segment, this is read again after it.
  const size_t kept_argmax = kept_stages + network->stages[kept_stages].needs_statistics();
  Scratch<uint8_t> argmax(batch * network->argmax_before(kept_argmax));
  for (size_t i = 0; i < kept_stages; ++i) {
    run.set_values(static_cast<int>(i) + 1, values.data() + network->values_before(i) * batch);
  }
  for (size_t i = 0; i < kept_argmax; ++i) {
    if (network->stages[i].argmax_bytes() > 0)
      run.set_kept(i, argmax.data() + network->argmax_before(i) * batch);
  }
  for (size_t i = 0; i < last; ++i) {
    const Segment<S>& segment = run.engine().segment(i);
    run.begin(segment);
    segment.for_each_tile([&](const TileRange& range) {
      typename NetworkRun<S, Stored>::Tile tile(run, segment, range, false);
      run.forward(segment, tile);
    });
  }

  const auto is_trained = [&](int64_t parameter) {
    return pass.options[parameter * options_per_parameter(*network)] != 0;
  };
  run.want_gradients(is_trained, nullptr);
  BatchLoss<S, Stored> loss(*network, pass);
  Scratch<StepRow> rows(static_cast<int64_t>(network->parameter_sizes.size()));
  begin_step(*network, pass, rows.data());
  std::optional<CollectedGradients<S, Stored>> collected;
  if (CollectedGradients<S, Stored>::are_needed(*network, pass))
    collected.emplace(*network, pass, rows.data());
  const auto take = [&](const GradientPiece<T>& piece) {  // once the loss of the whole batch is known
    if (loss.is_refused()) return;
    if (collected) return collected->add(piece);
    update_parameter<S, Stored>(*network, pass, rows.data(), piece);
  };
  const auto pieces = GradientSink<T>::pieces(take);
  Segment<S>& segment = run.engine().segment(last);
  run.begin(segment);
  const int output = network->outputs[0].value;
  std::vector<double> losses(segment.chunks());
  run.backward(segment, pieces, true, [&](auto& tile, int64_t chunk, auto& gradients, const auto& backward) {
    run.forward(segment, tile);
    losses[chunk] +=
        loss.of_tile(tile.range.first, tile.range.count, tile.value(output), gradients.output(output));
    gradients.written(output);
    backward();
  });
  for (size_t i = last; i-- > 0;) {
    Segment<S>& before = run.engine().segment(i);
    if (!run.reaches(before)) continue;
    run.backward(before, pieces, false, [&](auto&, int64_t, auto&, const auto& backward) { backward(); });
  }
  if (collected && !loss.is_refused()) collected->update();
  double total = 0;
  for (const double part : losses) total += part;
  from_compute(static_cast<T>(total), *static_cast<Stored*>(pass.batch_loss));
  if (!loss.is_refused()) return;
  *pass.refused = true;
  undo_step(*network, pass);
}

}  // namespace lenet_ext::cpu
