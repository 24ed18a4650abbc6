// A stage that is conv2d, linear or nothing, then max_pool2d, then an activation.
#pragma once

#include <cmath>
#include <optional>

#include "cpu/activation.h"
#include "cpu/batch_norm/folded.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/engine/pooled_conv2d_grad.h"
#include "cpu/engine/stage_kernels.h"
#include "cpu/linear/packed.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"

namespace lenet_ext::cpu {

template <class S>
class PlainStage final : public StageKernels<S> {
  using typename StageKernels<S>::T;
  using Core = Stage::Core;

 public:
  // images: most images per call.
  PlainStage(const Stage& stage, int64_t images, bool backward, bool input_grad)
      : s_(stage), conv_(stage.conv), pool_(stage.pool) {
    // The full-size activation of a block of images exists for a moment only.
    constexpr int64_t kBlockBytes = 256 * 1024;
    block_ = std::clamp<int64_t>(kBlockBytes / (s_.core_size * int64_t{sizeof(T)} + 1), 1,
                                 std::max<int64_t>(images, 1));
    conv_.batch = pool_.batch = block_;
    if (s_.norm) folded_.emplace(*s_.norm, s_.core_sizes[0]);
    if (s_.core != Core::kConv2d) return;
    forward_.emplace(conv_, Format::kContiguous, Caller::kEngine, s_.pooled ? &pool_ : nullptr);
    if (!backward) return;
    if (s_.pooled && PooledConv2dGradient<S>::suits(conv_, pool_)) {
      pooled_.emplace(conv_, pool_, input_grad);
      return;
    }
    weight_grad_.emplace(conv_, Format::kContiguous, Caller::kEngine);
    if (input_grad) input_grad_.emplace(conv_, Format::kContiguous, Caller::kEngine);
  }

  void set_parameters(const StageParameters<T>& parameters) override {
    weight_ = s_.weight < 0 ? nullptr : parameters.tensors[s_.weight];
    bias_ = s_.bias < 0 ? nullptr : parameters.tensors[s_.bias];
    packed_ = s_.weight < 0 || parameters.packed == nullptr ? nullptr : parameters.packed[s_.weight];
    if (folded_) {
      folded_->set_statistics(parameters.tensors);
      weight_ = folded_->weight(weight_, s_.weight_size), bias_ = folded_->bias(bias_);
    }
    if (forward_) forward_->set_weights(weight_, bias_);
    if (pooled_) pooled_->set_weight(weight_);
    if (input_grad_) input_grad_->set_weight(weight_);
  }

  void forward(const StageCall<T>& call) const override {
    const int64_t images = call.count;
    const bool pool_in_core = forward_ && forward_->pools(), full = has_full_block() && !pool_in_core;
    // A linear layer reads its weight once for all images.
    const bool at_once = s_.core == Core::kLinear || (forward_ && forward_->is_blocked() && !full);
    const int64_t step = at_once ? images : block_;
    Scratch<T> block(full ? block_ * s_.core_size : 0);
    for (int64_t i = 0; i < images; i += step) {
      const int64_t count = std::min(step, images - i);
      const T* x = call.input(0) + i * s_.input_size;
      T* const y = call.output + i * s_.output_size;
      T* const core = full ? block.data() : y;
      uint8_t* const z = call.kept == nullptr ? nullptr : call.kept + i * s_.argmax_bytes();
      if (forward_) forward_->run(count, x, core, pool_in_core ? z : nullptr);
      if (s_.core == Core::kLinear) linear_forward(linear_shape(count), x, core);
      if (s_.core != Core::kNone) x = core;
      if (s_.pooled && !pool_in_core) {
        max_pool2d<S>(pool_shape(count), Format::kContiguous, x, y, z);
        x = y;
      }
      activate<S>(s_.activation, count * s_.output_size, x, y);
    }
  }

  int64_t sums_size() const override {
    return pooled_ ? pooled_->sums_size() : weight_grad_ ? weight_grad_->sums_size() : s_.parameter_count();
  }

  void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                const GradientSink<T>& sink) const override {
    const int64_t images = call.count;
    const T* const input = call.input(0);
    activation_grad<S>(s_.activation, images * s_.output_size, grad_output, call.output, grad_output);
    if (s_.core == Core::kLinear) return linear_backward(images, input, grad_output, grad_inputs[0], sink);
    const StageSums<T> sums(sink, sums_size());
    add_gradients(images, input, call.kept, grad_output, grad_inputs[0], sums.data());
    if (sink.takes_pieces()) give(sums.data(), sink);
  }

  void finish_sums(const T* sums, const GradientSink<T>& sink) override { give(sums, sink); }
  double squared_norm(const T* sums) override {
    if (pooled_) {
      // In the compute type, where a square may be too large.
      const double norm = pooled_->squared_norm(sums, s_.bias >= 0);
      if (std::isfinite(norm)) return norm;
    }
    return StageKernels<S>::squared_norm(sums);
  }

 private:
  // The gradients of the parameters, in their own layout.
  void give(const T* sums, const GradientSink<T>& sink) const {
    if (s_.weight < 0) return;
    Scratch<T> gradients(pooled_ || weight_grad_ ? s_.parameter_count() : 0);
    const T *weight = sums, *bias = sums + s_.weight_size;
    if (pooled_) bias = pooled_->write(sums, gradients.data()), weight = gradients.data();
    if (weight_grad_) {
      weight = gradients.data(), bias = weight + s_.weight_size;
      weight_grad_->write(sums, gradients.data(), s_.bias < 0 ? nullptr : gradients.data() + s_.weight_size);
    }
    sink.take({s_.weight, 0, s_.weight_size, weight});
    if (s_.bias >= 0) sink.take({s_.bias, 0, s_.bias_size, bias});
  }

  // Whether the convolution's output is more than what is left of it after the pool.
  bool has_full_block() const { return s_.pooled && s_.core == Core::kConv2d; }
  LinearShape linear_shape(int64_t images) const {
    return {images * s_.linear.rows, s_.linear.in_features, s_.linear.out_features};
  }
  MaxPool2dShape pool_shape(int64_t images) const {
    MaxPool2dShape shape = pool_;
    shape.batch = images;
    return shape;
  }

  void linear_forward(const LinearShape& shape, const T* input, T* output) const {
    if (packed_ != nullptr && PackedLinear<S>::suits(shape.rows)) {
      PackedLinear<S>::run(shape, input, packed_, bias_, output);
    } else {
      linear<S>(shape, input, weight_, bias_, output);
    }
  }

  // Of all stages but linear ones; sums may be null.
  void add_gradients(int64_t images, const T* input, const uint8_t* argmax, const T* grad_output,
                     T* grad_input, T* sums) const {
    if (pooled_) {
      typename PooledConv2dGradient<S>::Memory memory(*pooled_, grad_input != nullptr);
      for (int64_t i = 0; i < images; ++i) {
        pooled_->add(input + i * s_.input_size, grad_output + i * s_.output_size,
                     argmax + i * s_.argmax_bytes(), sums,
                     grad_input == nullptr ? nullptr : grad_input + i * s_.input_size, memory);
      }
      return;
    }
    const bool weight_grad_wanted = weight_grad_ && sums != nullptr;
    if (grad_input == nullptr && !weight_grad_wanted) return;
    const bool full = has_full_block();
    Scratch<T> block(full ? block_ * s_.core_size : 0);
    for (int64_t i = 0; i < images; i += block_) {
      const int64_t count = std::min(block_, images - i);
      const T* grad = grad_output + i * s_.output_size;
      T* const grad_x = grad_input == nullptr ? nullptr : grad_input + i * s_.input_size;
      if (s_.pooled) {
        T* const to = full ? block.data() : grad_x;
        max_pool2d_input_grad<S>(pool_shape(count), Format::kContiguous, grad, argmax + i * s_.argmax_bytes(),
                                 to);
        grad = to;
      }
      if (weight_grad_wanted) weight_grad_->add(grad, input + i * s_.input_size, count, sums);
      if (grad_x == nullptr) continue;
      if (input_grad_) input_grad_->run(count, grad, grad_x);
      if (s_.core == Core::kNone && !s_.pooled) std::copy_n(grad, count * s_.input_size, grad_x);
    }
  }

  void linear_backward(int64_t images, const T* input, const T* grad_output, T* grad_input,
                       const GradientSink<T>& sink) const {
    const LinearShape shape = linear_shape(images);
    if (sink.sums() != nullptr) {
      matmul<S>(weight_product<T>(shape, grad_output, input, nullptr, sink.sums()));
      if (s_.bias >= 0) add_rows(shape.rows, grad_output, sink.sums() + s_.weight_size);
    }
    if (grad_input != nullptr) linear_input_grad<S>(shape, grad_output, weight_, grad_input);
    if (!sink.takes_pieces()) return;  // which may change the weight
    take_weight_grad(shape, input, grad_output, sink);
    if (s_.bias < 0) return;
    Scratch<T> bias(s_.bias_size);
    std::fill_n(bias.data(), s_.bias_size, T(0));
    add_rows(shape.rows, grad_output, bias.data());
    sink.take({s_.bias, 0, s_.bias_size, bias.data()});
  }

  void add_rows(int64_t count, const T* rows, T* sum) const {
    const int64_t size = s_.linear.out_features;
    for (int64_t i = 0; i < count; ++i) add_row<S>(rows + i * size, sum, size);
  }

  // A few rows of the weight at a time.
  void take_weight_grad(const LinearShape& shape, const T* input, const T* grad_output,
                        const GradientSink<T>& sink) const {
    constexpr int64_t kPieceBytes = 256 * 1024;  // rows together, so that the images are read less often
    const int64_t in = shape.in_features, out = shape.out_features;
    if (shape.rows == 1) return sink.take({s_.weight, 0, in, input, out, grad_output});
    const int64_t rows = std::clamp<int64_t>(kPieceBytes / (in * int64_t{sizeof(T)}), 1, out);
    Scratch<T> zeros(in);
    std::fill_n(zeros.data(), in, T(0));
    parallel_for((out + rows - 1) / rows, rows * in * shape.rows / 4, [&](int64_t begin, int64_t end) {
      Scratch<T> piece(rows * in);
      for (int64_t o = begin * rows; o < std::min(end * rows, out); o += rows) {
        const int64_t count = std::min(rows, out - o);
        MatrixProduct<T> product =
            weight_product<T>(shape, grad_output + o, input, zeros.data(), piece.data());
        product.rows = count;
        matmul<S>(product);
        sink.take({s_.weight, o * in, count * in, piece.data()});
      }
    });
  }

  const Stage& s_;
  Conv2dShape conv_;  // of a block
  MaxPool2dShape pool_;
  int64_t block_;
  std::optional<Conv2dForward<S, T>> forward_;
  std::optional<Conv2dInputGrad<S, T>> input_grad_;
  std::optional<Conv2dWeightGrad<S, T>> weight_grad_;
  std::optional<PooledConv2dGradient<S>> pooled_;  // in place of the two before
  std::optional<Folded<T>> folded_;
  const T *weight_ = nullptr, *bias_ = nullptr, *packed_ = nullptr;
};

}  // namespace lenet_ext::cpu
