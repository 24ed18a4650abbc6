// The gradients of the images of tiles, clipped and added up.
#pragma once

#include "cpu/engine/sample_run.h"
#include "cpu/linear/linear.h"
#include "cpu/microkernels/lanes.h"

namespace lenet_ext::cpu {

// to += factor * values
template <class S>
void add_scaled(int64_t count, typename S::Scalar factor, const typename S::Scalar* values,
                typename S::Scalar* to) {
  const auto f = S::broadcast(factor);
  for_each_lanes<S>(count, [&](int64_t i, const auto& load, const auto& store) {
    store(to + i, S::fma(f, load(values + i), load(to + i)));
  });
}

template <class S, class Stored>
class ClippedSums {
  using Run = SampleRun<S, Stored>;
  using T = typename S::Scalar;

 public:
  ClippedSums(const Run& run, double max_norm) : run_(run), max_norm_(max_norm) {
    for (size_t i = 0; i < run.stages().size(); ++i) {
      const Stage& stage = run.network().stages[i];
      const SampleStage& kept = run.stages()[i];
      const bool is_linear = kept.way == SampleWay::kRows;
      offsets_.push_back(size_);
      if (is_linear) size_ += stage.parameter_count();
      if (kept.way == SampleWay::kSums) size_ += kept.size;
    }
    shared_ = size_, size_ += run.shared_size();
  }

  // Elements of the sums: the gradients of linear layers, the sums of other stages in their own layout, and the
  // gradients of parameters that are shared.
  int64_t size() const { return size_; }

  // Of the images of a tile. norms: memory for a number of each. The rows of the tile are scaled.
  void add(typename Run::Tile& tile, int64_t count, const T* const* values, double* norms, T* to) const {
    std::fill_n(norms, count, 0.0);
    for (size_t i = 0; i < offsets_.size(); ++i) add_squares(i, tile, count, values, norms);
    const int64_t shared = run_.shared_size();
    for (int64_t k = 0; k < count && shared > 0; ++k) {
      norms[k] += sum_of_squares<S>(tile.shared() + k * shared, shared);
    }
    for (int64_t k = 0; k < count; ++k) norms[k] = clipping_factor(max_norm_, norms[k]);
    for (size_t i = 0; i < offsets_.size(); ++i) add_stage(i, tile, count, values, norms, to + offsets_[i]);
    for (int64_t k = 0; k < count && shared > 0; ++k) {
      add_scaled<S>(shared, static_cast<T>(norms[k]), tile.shared() + k * shared, to + shared_);
    }
  }

  // The sums, each gradient in the layout of its parameter.
  void write(const T* from, void* const* sums) const {
    const auto write = [&](const GradientPiece<T>& piece) {
      const int64_t place = run_.place(piece.parameter);
      if (place >= 0) write_piece<S>(piece, false, static_cast<T*>(sums[place]));
    };
    for (size_t i = 0; i < offsets_.size(); ++i) {
      const Stage& stage = run_.network().stages[i];
      const T* const own = from + offsets_[i];
      if (run_.stages()[i].way == SampleWay::kRows) {
        write({stage.weight, 0, stage.weight_size, own});
        if (stage.bias >= 0) write({stage.bias, 0, stage.bias_size, own + stage.weight_size});
      } else if (run_.stages()[i].way == SampleWay::kSums) {
        run_.kernels(i).finish_sums(own, GradientSink<T>::pieces(write));
      }
    }
    run_.for_each_shared(
        [&](int parameter, int64_t at, int64_t size) { write({parameter, 0, size, from + shared_ + at}); });
  }

 private:
  void add_squares(size_t i, typename Run::Tile& tile, int64_t count, const T* const* values,
                   double* squares) const {
    const Stage& stage = run_.network().stages[i];
    const SampleStage& kept = run_.stages()[i];
    if (kept.way == SampleWay::kRows) {
      const T *x = values[stage.inputs[0]], *g = tile.rows(kept);
      const bool weight = run_.is_wanted(stage.weight), bias = run_.is_wanted(stage.bias);
      for (int64_t k = 0; k < count; ++k, x += stage.input_size, g += kept.size) {
        const double per_square =
            (weight ? sum_of_squares<S>(x, stage.input_size) : 0.0) + (bias ? 1.0 : 0.0);
        squares[k] += per_square * sum_of_squares<S>(g, kept.size);
      }
    } else if (kept.way == SampleWay::kSums) {
      StageKernels<S>& kernels = run_.kernels(i);
      const T* sums = tile.sums(kept);
      const bool all = run_.wants_all(i);
      for (int64_t k = 0; k < count; ++k, sums += kept.size) {
        squares[k] += all ? kernels.squared_norm(sums)
                          : kernels.squared_norm_of_pieces(sums, [&](int p) { return run_.is_wanted(p); });
      }
    }
  }

  void add_stage(size_t i, typename Run::Tile& tile, int64_t count, const T* const* values,
                 const double* factors, T* to) const {
    const Stage& stage = run_.network().stages[i];
    const SampleStage& kept = run_.stages()[i];
    if (kept.way == SampleWay::kRows) {
      T* const g = tile.rows(kept);
      for (int64_t k = 0; k < count; ++k) scale(kept.size, static_cast<T>(factors[k]), g + k * kept.size);
      if (run_.is_wanted(stage.weight)) {
        const LinearShape shape{count, stage.input_size, kept.size};
        matmul<S>(weight_product<T>(shape, g, values[stage.inputs[0]], nullptr, to));
      }
      for (int64_t k = 0; k < count && run_.is_wanted(stage.bias); ++k) {
        add_row<S>(g + k * kept.size, to + stage.weight_size, kept.size);
      }
    } else if (kept.way == SampleWay::kSums) {
      const T* const sums = tile.sums(kept);
      for (int64_t k = 0; k < count; ++k) {
        add_scaled<S>(kept.size, static_cast<T>(factors[k]), sums + k * kept.size, to);
      }
    }
  }

  static void scale(int64_t count, T factor, T* values) {
    const auto f = S::broadcast(factor);
    for_each_lanes<S>(count, [&](int64_t i, const auto& load, const auto& store) {
      store(values + i, S::mul(f, load(values + i)));
    });
  }

  const Run& run_;
  const double max_norm_;
  std::vector<int64_t> offsets_;  // by stage
  int64_t shared_ = 0, size_ = 0;
};

}  // namespace lenet_ext::cpu
