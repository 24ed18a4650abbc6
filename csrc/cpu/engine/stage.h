// The kernels of one stage of the fused engine (engine/network.h), forward and backward over a few images
// whose activations stay in the cache. All values are in the compute type and contiguous. Serial: the engine
// gives each thread images of its own.
#pragma once

#include <memory>
#include <optional>

#include "cpu/activation.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/engine/gradient_sink.h"
#include "cpu/engine/pooled_conv2d_grad.h"
#include "cpu/linear/linear.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"
#include "engine/network.h"

namespace lenet_ext::cpu {

template <class S>
class StageKernels {
  using T = typename S::Scalar;
  using Core = Stage::Core;

 public:
  // images: most images per call.
  StageKernels(const Stage& stage, int64_t images, bool backward, bool input_grad)
      : s_(stage), conv_(stage.conv), pool_(stage.pool) {
    // The full-size activation of a block of images exists for a moment only.
    constexpr int64_t kBlockBytes = 256 * 1024;
    block_ = std::clamp<int64_t>(kBlockBytes / (s_.core_size * int64_t{sizeof(T)} + 1), 1,
                                 std::max<int64_t>(images, 1));
    conv_.batch = pool_.batch = block_;
    if (s_.core != Core::kConv2d) return;
    forward_.emplace(conv_, Format::kContiguous, Caller::kEngine, s_.pooled ? &pool_ : nullptr);
    if (!backward) return;
    if (s_.pooled && PooledConv2dGradient<S>::suits(conv_, pool_)) {
      pooled_.emplace(conv_, pool_, input_grad);
      return;
    }
    weight_grad_.emplace(conv_, Format::kContiguous);
    if (input_grad) input_grad_.emplace(conv_, Format::kContiguous, Caller::kEngine);
  }

  // parameters: all of the network. To be called before the first pass, and after the values have changed.
  void set_parameters(const T* const* parameters) {
    weight_ = s_.weight < 0 ? nullptr : parameters[s_.weight];
    bias_ = s_.bias < 0 ? nullptr : parameters[s_.bias];
    if (forward_) forward_->set_weights(weight_, bias_);
    if (pooled_) pooled_->set_weight(weight_);
    if (input_grad_) input_grad_->set_weight(weight_);
  }

  // argmax may be null.
  void forward(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    const bool pool_in_core = forward_ && forward_->pools(), full = has_full_block() && !pool_in_core;
    const int64_t step = forward_ && forward_->is_blocked() && !full ? images : block_;
    Scratch<T> block(full ? block_ * s_.core_size : 0);
    for (int64_t i = 0; i < images; i += step) {
      const int64_t count = std::min(step, images - i);
      const T* x = input + i * s_.input_size;
      T* const y = output + i * s_.output_size;
      T* const core = full ? block.data() : y;
      uint8_t* const z = argmax == nullptr ? nullptr : argmax + i * s_.argmax_bytes();
      if (forward_) forward_->run(count, x, core, pool_in_core ? z : nullptr);
      if (s_.core == Core::kLinear) linear<S>(linear_shape(count), x, weight_, bias_, core);
      if (s_.core != Core::kNone) x = core;
      if (s_.pooled && !pool_in_core) {
        max_pool2d<S>(pool_shape(count), Format::kContiguous, x, y, z);
        x = y;
      }
      activate<S>(s_.activation, count * s_.output_size, x, y);
    }
  }

  // Partial sums of the weight and bias gradient, to be zeroed, added to by backward and summed by the
  // caller, then brought into order by finish_sums.
  int64_t sums_size() const { return pooled_ ? pooled_->sums_size() : s_.parameter_count(); }

  // grad_output is overwritten; grad_input may be null.
  void backward(int64_t images, const T* input, const T* output, const uint8_t* argmax, T* grad_output,
                T* grad_input, const GradientSink<T>& sink) const {
    activation_grad<S>(s_.activation, images * s_.output_size, grad_output, output, grad_output);
    if (s_.core == Core::kLinear) return linear_backward(images, input, grad_output, grad_input, sink);
    if (s_.core == Core::kNone || !sink.takes_pieces()) {
      return add_gradients(images, input, argmax, grad_output, grad_input, sink.sums());
    }
    Scratch<T> sums(sums_size());
    std::fill_n(sums.data(), sums_size(), T(0));
    add_gradients(images, input, argmax, grad_output, grad_input, sums.data());
    finish_sums(sums.data(), sink);
  }

  // Gives the gradients of the parameters, in their own layout, to a sink that takes pieces.
  void finish_sums(const T* sums, const GradientSink<T>& sink) const {
    if (s_.weight < 0) return;
    Scratch<T> gradients(pooled_ ? s_.weight_size : 0);
    const T *weight = sums, *bias = sums + s_.weight_size;
    if (pooled_) bias = pooled_->write(sums, gradients.data()), weight = gradients.data();
    sink.take(s_.weight, 0, s_.weight_size, weight);
    if (s_.bias >= 0) sink.take(s_.bias, 0, s_.bias_size, bias);
  }

 private:
  // Whether the convolution's output is more than what is left of it after the pool.
  bool has_full_block() const { return s_.pooled && s_.core == Core::kConv2d; }
  LinearShape linear_shape(int64_t images) const {
    return {images, s_.linear.in_features, s_.linear.out_features};
  }
  MaxPool2dShape pool_shape(int64_t images) const {
    MaxPool2dShape shape = pool_;
    shape.batch = images;
    return shape;
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
      if (weight_grad_wanted) add_weight_grad(count, input + i * s_.input_size, grad, sums);
      if (grad_x == nullptr) continue;
      if (input_grad_) input_grad_->run(count, grad, grad_x);
      if (s_.core == Core::kNone && !s_.pooled) std::copy_n(grad, count * s_.input_size, grad_x);
    }
  }

  void add_weight_grad(int64_t images, const T* input, const T* grad_output, T* sums) const {
    Scratch<T> gradients(s_.parameter_count());
    weight_grad_->run(grad_output, input, images, gradients.data(),
                      s_.bias < 0 ? nullptr : gradients.data() + s_.weight_size);
    add_row<S>(gradients.data(), sums, s_.parameter_count());
  }

  void linear_backward(int64_t images, const T* input, const T* grad_output, T* grad_input,
                       const GradientSink<T>& sink) const {
    const LinearShape shape = linear_shape(images);
    if (sink.sums() != nullptr) {
      matmul<S>(weight_product<T>(shape, grad_output, input, nullptr, sink.sums()));
      if (s_.bias >= 0) add_rows(images, grad_output, sink.sums() + s_.weight_size);
    }
    if (grad_input != nullptr) linear_input_grad<S>(shape, grad_output, weight_, grad_input);
    if (!sink.takes_pieces()) return;  // which may change the weight
    take_weight_grad(images, input, grad_output, sink);
    if (s_.bias < 0) return;
    Scratch<T> bias(s_.bias_size);
    std::fill_n(bias.data(), s_.bias_size, T(0));
    add_rows(images, grad_output, bias.data());
    sink.take(s_.bias, 0, s_.bias_size, bias.data());
  }

  void add_rows(int64_t images, const T* rows, T* sum) const {
    const int64_t size = s_.linear.out_features;
    for (int64_t i = 0; i < images; ++i) add_row<S>(rows + i * size, sum, size);
  }

  // A few rows of the weight at a time.
  void take_weight_grad(int64_t images, const T* input, const T* grad_output,
                        const GradientSink<T>& sink) const {
    constexpr int64_t kPieceBytes = 256 * 1024;  // rows together, so that the images are read less often
    const int64_t in = s_.linear.in_features, out = s_.linear.out_features;
    const int64_t rows = std::clamp<int64_t>(kPieceBytes / (in * int64_t{sizeof(T)}), 1, out);
    Scratch<T> zeros(in);
    std::fill_n(zeros.data(), in, T(0));
    parallel_for((out + rows - 1) / rows, rows * in * images / 4, [&](int64_t begin, int64_t end) {
      Scratch<T> piece(images == 1 ? 0 : rows * in);
      for (int64_t o = begin * rows; o < std::min(end * rows, out); o += rows) {
        const int64_t count = std::min(rows, out - o);
        if (images == 1) {  // a row of the gradient is a multiple of the image
          for (int64_t r = o; r < o + count; ++r) sink.take(s_.weight, r * in, in, input, grad_output[r]);
          continue;
        }
        MatrixProduct<T> product =
            weight_product<T>(linear_shape(images), grad_output + o, input, zeros.data(), piece.data());
        product.rows = count;
        matmul<S>(product);
        sink.take(s_.weight, o * in, count * in, piece.data());
      }
    });
  }

  const Stage& s_;
  Conv2dShape conv_;  // of a block
  MaxPool2dShape pool_;
  int64_t block_;
  std::optional<Conv2dForward<S, T>> forward_;
  std::optional<Conv2dInputGrad<S, T>> input_grad_;
  std::optional<WeightGradient<S, T>> weight_grad_;
  std::optional<PooledConv2dGradient<S>> pooled_;  // in place of the two before
  const T *weight_ = nullptr, *bias_ = nullptr;
};

}  // namespace lenet_ext::cpu
