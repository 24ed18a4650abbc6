// Batch normalization in the fused engine: with running statistics, which are given; or with those of the
// batch, which all tiles must have been seen for:
//
//   observe for each tile, finish_statistics, set_statistics, forward for each tile
//   set_statistics, backward for each tile, finish_sums, finish_input_gradient for each tile
//
// Perhaps a max-pool follows, then an activation whose gradient comes from its output. What comes of a few
// channels goes through all of these while it is in the first-level cache.
#pragma once

#include <vector>

#include "cpu/activation.h"
#include "cpu/batch_norm/pooled.h"
#include "cpu/batch_norm/statistics.h"
#include "cpu/engine/stage_kernels.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"

namespace lenet_ext::cpu {

template <class S>
class BatchNormStage final : public StatisticsKernels<S> {
 public:
  using typename StageKernels<S>::T;

  BatchNormStage(const BatchNormShape& shape, const Stage& stage)
      : s_(shape), stage_(stage), p_(BatchNormParameters::of(stage.layer)) {
    in_pairs_ = stage.pooled && in_channels() && pools_in_pairs(stage.pool);
  }

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
    Scratch<T> block(stage_.pooled ? block_size() : 0);
    for_each_group(call.count, [&](const Group& group) {
      T* const y = call.output + group.out;
      T* const normalized = stage_.pooled ? block.data() : y;
      normalize<S>(group.shape, group.images, by_.from(group.channel), call.input(0) + group.in, normalized);
      if (stage_.pooled) {
        max_pool2d<S>(group.pool, Format::kContiguous, normalized, y, argmax(call, group));
      }
      activate<S>(stage_.activation, group.out_size, y, y);
    });
  }

  // Of g and of g * xhat, where g is the gradient of the normalized values: the gradients of bias and weight.
  // Then the number of images.
  int64_t sums_size() const override {
    return p_.uses_batch_statistics() || p_.weight >= 0 ? 2 * s_.channels + 1 : 0;
  }

  // With the batch's statistics grad_inputs[0] becomes g, after a pool only what that passes on.
  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    const bool sums_wanted = sums_size() > 0 && sink.is_wanted();
    T* const grad_x = p_.uses_batch_statistics() ? nullptr : grad_inputs[0];
    T* const g = p_.uses_batch_statistics() && grad_inputs[0] != nullptr ? grad_inputs[0] : grad_output;
    Scratch<T> block(stage_.pooled ? block_size() : 0);
    Scratch<double> sums(2 * s_.channels);
    std::fill_n(sums.data(), 2 * s_.channels, 0.0);
    for_each_group(call.count, [&](const Group& group) {
      T* const of_group = g + group.out;
      if (stage_.activation.kind != Activation::kNone) {
        activation_grad<S>(stage_.activation, group.out_size, grad_output + group.out,
                           call.output + group.out, of_group);
      } else if (g != grad_output) {
        std::copy_n(grad_output + group.out, group.out_size, of_group);
      }
      const Normalization<T> by = by_.from(group.channel);
      double *const sum = sums.data() + group.channel, *const product = sum + s_.channels;
      const T* const x = call.input(0) + group.in;
      if (in_pairs_ && grad_x == nullptr) {
        if (sums_wanted) {
          add_pooled_sums<S>(group.shape, group.pool, group.images, by, x, of_group, argmax(call, group), sum,
                             product);
        }
        return;
      }
      const T* normalized = of_group;
      if (stage_.pooled && (sums_wanted || grad_x != nullptr)) {
        max_pool2d_input_grad<S>(group.pool, Format::kContiguous, of_group, argmax(call, group),
                                 block.data());
        normalized = block.data();
      }
      if (sums_wanted) add_normalize_sums<S>(group.shape, group.images, by, x, normalized, sum, product);
      if (grad_x != nullptr) normalize_grad<S>(group.shape, group.images, by, normalized, grad_x + group.in);
    });
    if (sums_wanted) give_sums(call.count, sums.data(), sink);
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

  void finish_input_gradient(const StageCall<T>& call, const T* grad, T* grad_x) const override {
    for_each_group(call.count, [&](const Group& group) {
      T* const to = grad_x + group.in;
      const T *const x = call.input(0) + group.in, *normalized = grad + group.out;
      const Normalization<T> by = by_.from(group.channel);
      const T *const means = grad_means_.data() + group.channel, *const product_means = means + s_.channels;
      if (in_pairs_) {
        return batch_normalize_pooled_grad<S>(group.shape, group.pool, group.images, by, means, product_means,
                                              x, normalized, argmax(call, group), to);
      }
      if (stage_.pooled) {
        max_pool2d_input_grad<S>(group.pool, Format::kContiguous, normalized, argmax(call, group), to);
        normalized = to;
      }
      batch_normalize_grad<S>(group.shape, group.images, by, means, product_means, x, normalized, to);
    });
  }

 private:
  // Some channels of an image, or several whole images.
  struct Group {
    BatchNormShape shape;
    MaxPool2dShape pool;
    int64_t images, channel;
    int64_t in, out, out_size;  // where it begins before and after the pool; its elements after it
  };

  // What channels are to the batch norm they may not be to the pool, if a reshape lies between.
  bool in_channels() const { return !stage_.pooled || stage_.pool.height * stage_.pool.width == s_.plane; }
  int64_t block_size() const { return std::max({kBlock, s_.plane, in_channels() ? 0 : s_.image()}); }

  // body(group) for all of some images.
  template <class Body>
  void for_each_group(int64_t images, const Body& body) const {
    if (s_.image() == 0) return;
    const int64_t out_image = stage_.pooled ? stage_.output_size : s_.image();
    if (s_.image() <= kBlock || !in_channels()) {
      const int64_t most = std::max<int64_t>(kBlock / s_.image(), 1);
      for (int64_t i = 0; i < images; i += most) {
        const int64_t count = std::min(most, images - i);
        MaxPool2dShape pool = stage_.pool;
        pool.batch = count;
        body(Group{s_, pool, count, 0, i * s_.image(), i * out_image, count * out_image});
      }
      return;
    }
    const int64_t out_plane = out_image / s_.channels, most = std::max<int64_t>(kBlock / s_.plane, 1);
    for (int64_t i = 0; i < images; ++i) {
      for (int64_t c = 0; c < s_.channels; c += most) {
        const int64_t count = std::min(most, s_.channels - c);
        MaxPool2dShape pool = stage_.pool;
        pool.batch = 1, pool.channels = count;
        body(Group{{count, s_.plane, s_.eps},
                   pool,
                   1,
                   c,
                   i * s_.image() + c * s_.plane,
                   i * out_image + c * out_plane,
                   count * out_plane});
      }
    }
  }

  // Where it is for a group.
  uint8_t* argmax(const StageCall<T>& call, const Group& group) const {
    return call.kept == nullptr ? nullptr : call.kept + group.out * (stage_.pool.byte_argmax() ? 1 : 4);
  }

  // A step of the optimizer changes the weight before the gradient of the input is there.
  const T* copied(const T* weight) {
    weight_.assign(weight, weight + s_.channels);
    return weight_.data();
  }

  void give_sums(int64_t images, const double* sums, const GradientSink<T>& sink) const {
    const StageSums<T> own(sink, sums_size());
    T* const to = own.data();
    for (int64_t i = 0; i < 2 * s_.channels; ++i) to[i] += static_cast<T>(sums[i]);
    to[2 * s_.channels] += static_cast<T>(images);
    if (p_.weight >= 0 && sink.takes_pieces()) give_gradients(to, sink);
  }
  void give_gradients(const T* sums, const GradientSink<T>& sink) const {
    sink.take({p_.bias, 0, s_.channels, sums});
    sink.take({p_.weight, 0, s_.channels, sums + s_.channels});
  }

  // Elements of a group: with what they become they fit the first-level cache.
  static constexpr int64_t kBlock = 4096;

  const BatchNormShape s_;
  const Stage& stage_;
  const BatchNormParameters p_;
  bool in_pairs_;
  Normalization<T> by_{};
  std::vector<T> weight_, running_inv_std_;
  std::vector<T> grad_means_;  // of g and g * xhat over the batch
};

}  // namespace lenet_ext::cpu
