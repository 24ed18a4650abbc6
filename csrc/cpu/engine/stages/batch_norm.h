// Batch normalization in the fused engine: with running statistics, which are given; or with those of the
// batch, which all tiles must have been seen for:
//
//   observe for each tile, finish_statistics, set_statistics, forward for each tile
//   set_statistics, backward for each tile, finish_sums, finish_input_gradient for each tile
#pragma once

#include <vector>

#include "cpu/batch_norm/normalize.h"
#include "cpu/batch_norm/statistics.h"
#include "cpu/engine/stage_kernels.h"

namespace lenet_ext::cpu {

// Parameters of the network; -1 where there is none. The running ones: where they are the statistics.
struct BatchNormParameters {
  int weight = -1, bias = -1, running_mean = -1, running_variance = -1;

  bool uses_batch_statistics() const { return running_mean < 0; }
};

template <class S>
class BatchNormStage final : public StatisticsKernels<S> {
 public:
  using typename StageKernels<S>::T;

  BatchNormStage(const BatchNormShape& shape, const BatchNormParameters& parameters)
      : s_(shape), p_(parameters) {}

  void set_parameters(const StageParameters<T>& parameters) override {
    by_.weight = p_.weight < 0 ? nullptr : copied(parameters.tensors[p_.weight]);
    by_.bias = p_.bias < 0 ? nullptr : parameters.tensors[p_.bias];
    if (p_.uses_batch_statistics()) return;
    by_.mean = parameters.tensors[p_.running_mean];
    const T* const variance = parameters.tensors[p_.running_variance];
    running_inv_std_.resize(s_.channels);
    for (int64_t c = 0; c < s_.channels; ++c) {
      running_inv_std_[c] = static_cast<T>(1 / std::sqrt(static_cast<double>(variance[c]) + s_.eps));
    }
    by_.inv_std = running_inv_std_.data();
  }

  StatisticsKernels<S>* statistics() override { return p_.uses_batch_statistics() ? this : nullptr; }
  int64_t partial_size() const override { return 2 * s_.channels; }
  void observe(const T* x, int64_t images, double* partial) const override {
    if (images > 0) channel_moments<S>(s_, images, x, partial, partial + s_.channels);
  }
  // statistics: BatchNormShape::statistics_size(). Without any value the mean and the variance are zero.
  void finish_statistics(const double* partials, int64_t tiles, const int64_t* tile_images,
                         T* statistics) const override {
    for (int64_t c = 0; c < s_.channels; ++c) {
      Moments moments;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const double* const partial = partials + tile * partial_size() + c;
        if (tile_images[tile] == 0) continue;
        moments.merge({static_cast<double>(tile_images[tile] * s_.plane), partial[0], partial[s_.channels]});
      }
      const double count = std::max(moments.count, 1.0), mean = moments.mean;
      statistics[c] = static_cast<T>(mean);
      statistics[s_.channels + c] = static_cast<T>(1 / std::sqrt(moments.squares / count + s_.eps));
      statistics[2 * s_.channels + c] = static_cast<T>(moments.squares / std::max(count - 1, 1.0));
      statistics[3 * s_.channels + c] = static_cast<T>(mean - static_cast<double>(statistics[c]));
    }
  }
  void set_statistics(const T* statistics) override {
    by_.mean = statistics, by_.inv_std = statistics + s_.channels;
    by_.low_mean = statistics + 3 * s_.channels;
  }

  void forward(const StageCall<T>& call) const override {
    normalize<S>(s_, call.count, by_, call.inputs[0], call.output);
  }

  // Of g and of g * xhat, where g is the gradient of the normalized values: the gradients of bias and weight.
  // Then the number of images.
  int64_t sums_size() const override {
    return p_.uses_batch_statistics() || p_.weight >= 0 ? 2 * s_.channels + 1 : 0;
  }

  // With the batch's statistics grad_inputs[0] becomes g, for finish_input_gradient.
  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    if (sums_size() > 0 && sink.sums() != nullptr) add_sums(call, grad_output, sink.sums());
    if (p_.weight >= 0 && sink.takes_pieces()) {
      Scratch<T> sums(sums_size());
      std::fill_n(sums.data(), sums_size(), T(0));
      add_sums(call, grad_output, sums.data());
      give_gradients(sums.data(), sink);
    }
    if (grad_inputs[0] == nullptr) return;
    if (p_.uses_batch_statistics()) {
      std::copy_n(grad_output, call.count * s_.image(), grad_inputs[0]);
    } else {
      normalize_grad<S>(s_, call.count, by_, grad_output, grad_inputs[0]);
    }
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override {
    if (p_.uses_batch_statistics()) {
      const double values = static_cast<double>(sums[2 * s_.channels]) * static_cast<double>(s_.plane);
      grad_means_.resize(2 * s_.channels);
      for (int64_t i = 0; i < 2 * s_.channels; ++i) {
        grad_means_[i] = static_cast<T>(sums[i] / std::max(values, 1.0));
      }
    }
    if (p_.weight >= 0 && sink.takes_pieces()) give_gradients(sums, sink);
  }

  void finish_input_gradient(int64_t images, const T* x, const T* g, T* grad_x) const override {
    batch_normalize_grad<S>(s_, images, by_, grad_means_.data(), x, g, grad_x);
  }

 private:
  // A step of the optimizer changes the weight before the gradient of the input is there.
  const T* copied(const T* weight) {
    weight_.assign(weight, weight + s_.channels);
    return weight_.data();
  }

  void add_sums(const StageCall<T>& call, const T* g, T* sums) const {
    add_normalize_sums<S>(s_, call.count, by_, call.inputs[0], g, sums);
    sums[2 * s_.channels] += static_cast<T>(call.count);
  }
  void give_gradients(const T* sums, const GradientSink<T>& sink) const {
    sink.take(p_.bias, 0, s_.channels, sums);
    sink.take(p_.weight, 0, s_.channels, sums + s_.channels);
  }

  const BatchNormShape s_;
  const BatchNormParameters p_;
  Normalization<T> by_{};
  std::vector<T> weight_, running_inv_std_;
  std::vector<T> grad_means_;  // of g and g * xhat over the batch
};

}  // namespace lenet_ext::cpu
