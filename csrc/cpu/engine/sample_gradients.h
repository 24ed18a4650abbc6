// The passes that tell the images of a batch apart: the gradients of each, and for private training the sum of
// these, clipped, with the update that follows once there is noise.
#pragma once

#include "cpu/engine/clipped_sums.h"

namespace lenet_ext::cpu {

// The gradients of the images of a tile, each to its place in those of the batch.
template <class S, class Stored>
void write_gradients(SampleRun<S, Stored>& run, typename SampleRun<S, Stored>::Tile& tile, int64_t first,
                     int64_t count, const typename S::Scalar* const* values, void* const* gradients) {
  using T = typename S::Scalar;
  const Network& network = run.network();
  for (int64_t image = 0; image < count; ++image) {
    const auto write = [&](const GradientPiece<T>& piece) {
      const int64_t place = run.place(piece.parameter);
      if (place < 0) return;
      auto* const of_batch = static_cast<Stored*>(gradients[place]);
      write_piece<S>(piece, false, of_batch + (first + image) * network.parameter_sizes[piece.parameter]);
    };
    for (size_t i = 0; i < network.stages.size(); ++i) {
      const SampleStage& kept = run.stages()[i];
      const Stage& stage = network.stages[i];
      if (kept.way == SampleWay::kRows) {
        const T* const x = values[stage.inputs[0]] + image * stage.input_size;
        const T* const g = tile.rows(kept) + image * kept.size;
        write({stage.weight, 0, stage.input_size, x, kept.size, g});
        if (stage.bias >= 0) write({stage.bias, 0, kept.size, g});
      } else if (kept.way == SampleWay::kSums) {
        run.kernels(i).finish_sums(tile.sums(kept) + image * kept.size, GradientSink<T>::pieces(write));
      }
    }
    const T* const shared = tile.shared() + image * run.shared_size();
    run.for_each_shared(
        [&](int parameter, int64_t at, int64_t size) { write({parameter, 0, size, shared + at}); });
  }
}

template <class S, class Stored>
void network_sample_gradients(const NetworkPtr& network, const SampleGradientsPass& pass) {
  SampleRun<S, Stored> run(network, pass.samples);
  parallel_for(run.tiles(), run.tile_cost(), [&](int64_t begin, int64_t end) {
    typename SampleRun<S, Stored>::Tile tile(run);
    for (int64_t i = begin; i < end; ++i) {
      tile.run(i, [&](int64_t first, int64_t count, const auto* const* values) {
        write_gradients(run, tile, first, count, values, pass.gradients);
      });
    }
  });
  *pass.samples.refused = run.is_refused();
}

template <class S, class Stored>
void network_clipped_sums(const NetworkPtr& network, const ClippedSumsPass& pass) {
  using T = typename S::Scalar;
  SampleRun<S, Stored> run(network, pass.samples);
  const ClippedSums<S, Stored> sums(run, pass.max_norm);
  // Chunks: enough for many threads, few enough to keep their sums small.
  constexpr int64_t kChunkTiles = 2, kLeastChunks = 4, kMostChunks = 32, kMostSums = 2 * 1024 * 1024;
  const int64_t tiles = run.tiles(), size = sums.size();
  int64_t chunks = std::clamp<int64_t>(tiles / kChunkTiles, std::min(tiles, kLeastChunks), kMostChunks);
  chunks = std::clamp<int64_t>(kMostSums / std::max<int64_t>(size, 1), 1, chunks);
  Scratch<T> totals(chunks * size);
  std::vector<double> losses(chunks);
  parallel_for(chunks, (tiles + chunks - 1) / chunks * run.tile_cost(), [&](int64_t begin, int64_t end) {
    typename SampleRun<S, Stored>::Tile tile(run);
    Scratch<double> norms(run.tile_images());
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      T* const to = totals.data() + chunk * size;
      std::fill_n(to, size, T(0));
      const int64_t last = (chunk + 1) * tiles / chunks;
      for (int64_t i = chunk * tiles / chunks; i < last; ++i) {
        losses[chunk] += tile.run(i, [&](int64_t, int64_t count, const auto* const* values) {
          sums.add(tile, count, values, norms.data(), to);
        });
      }
    }
  });
  add_chunks<S>(chunks, size, totals.data());
  sums.write(totals.data(), pass.sums);
  *pass.loss = 0;
  for (const double part : losses) *pass.loss += part;
  *pass.samples.refused = run.is_refused();
}

// network: has parameters and an optimizer, and need have no layer.
template <class S, class Stored>
void noisy_update(const Network& network, const TrainPass& pass, const NoisySums& noisy) {
  using T = typename S::Scalar;
  Scratch<StepRow> rows(static_cast<int64_t>(network.parameter_sizes.size()));
  begin_step(network, pass, rows.data());
  T* sums = static_cast<T*>(noisy.sums);
  const Stored* noise = static_cast<const Stored*>(noisy.noise);
  const auto divisor = S::broadcast(static_cast<T>(noisy.divisor));
  // The gradient and the step of a block, while it is in the first-level cache.
  constexpr int64_t kBlock = 4096, kCycles = 16;
  for (const int64_t parameter : noisy.parameters) {
    const int64_t size = network.parameter_sizes[parameter];
    parallel_for((size + kBlock - 1) / kBlock, kBlock / S::width * kCycles, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kBlock; first < std::min(end * kBlock, size); first += kBlock) {
        const int64_t count = std::min(kBlock, size - first);
        T* const at = sums + first;
        for (int64_t i = 0; i < count; i += S::width) {
          const auto n = static_cast<int>(std::min<int64_t>(S::width, count - i));
          auto sum = S::load_partial(at + i, n);
          if (noise != nullptr) sum = S::add(sum, S::load_partial(noise + first + i, n));
          S::store_partial(at + i, S::div(sum, divisor), n);
        }
        update_parameter<S, Stored>(network, pass, rows.data(),
                                    {static_cast<int>(parameter), first, count, at});
      }
    });
    sums += size;
    if (noise != nullptr) noise += size;
  }
}

}  // namespace lenet_ext::cpu
