// The gradients of a training pass in memory: where their norm must be known before the first parameter changes,
// and where a parameter is used in several places, whose gradients are added up.
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/engine/tensors.h"
#include "cpu/microkernels/squares.h"

namespace lenet_ext::cpu {

// In the compute type, one buffer for each parameter. Entries of the list of parameters that have the same
// memory are one parameter, the first of them.
template <class S, class Stored>
class CollectedGradients {
  using T = typename S::Scalar;

 public:
  CollectedGradients(const Network& network, const TrainPass& pass, const StepRow* rows)
      : network_(network), pass_(pass), rows_(rows) {
    const size_t count = network.parameter_sizes.size();
    first_of_.resize(count), offsets_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      first_of_[i] = std::find(pass.parameters, pass.parameters + i, pass.parameters[i]) - pass.parameters;
      if (first_of_[i] < i) continue;
      offsets_[i] = size_;
      if (rows[i].trained != 0) size_ += network.parameter_sizes[i];
    }
    values_.emplace(size_);
    std::fill_n(values_->data(), size_, T(0));
  }

  // Whether a training pass needs them.
  static bool are_needed(const Network& network, const TrainPass& pass) {
    return network.max_grad_norm || shares_parameters(network, pass);
  }

  void add(const GradientPiece<T>& piece) {
    if (rows_[piece.parameter].trained != 0) write_piece<S>(piece, true, of(first_of_[piece.parameter]));
  }

  // The optimizer's step of all parameters, after clipping, where this is asked for.
  void update() {
    const std::optional<double>& max_norm = network_.max_grad_norm;
    const T factor = max_norm ? static_cast<T>(clipping_factor(*max_norm, squared_norm())) : T(1);
    for (size_t i = 0; i < first_of_.size(); ++i) {
      if (first_of_[i] < i || rows_[i].trained == 0) continue;
      update_parameter<S, Stored>(network_, pass_, rows_,
                                  {.parameter = static_cast<int>(i),
                                   .first = 0,
                                   .count = network_.parameter_sizes[i],
                                   .values = of(i),
                                   .factors = &factor});
    }
  }

 private:
  T* of(size_t parameter) { return values_->data() + offsets_[parameter]; }

  // In blocks, so that it is the same for every number of threads.
  double squared_norm() {
    constexpr int64_t kBlock = 4096;
    const int64_t blocks = (size_ + kBlock - 1) / kBlock;
    Scratch<double> sums(blocks);
    parallel_for(blocks, kBlock / 4, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kBlock;
        sums.data()[block] = sum_of_squares<S>(values_->data() + first, std::min(kBlock, size_ - first));
      }
    });
    return std::accumulate(sums.data(), sums.data() + blocks, 0.0);
  }

  const Network& network_;
  const TrainPass& pass_;
  const StepRow* const rows_;
  std::vector<size_t> first_of_;
  std::vector<int64_t> offsets_;  // where each one's gradient begins
  int64_t size_ = 0;
  std::optional<Scratch<T>> values_;
};

}  // namespace lenet_ext::cpu
