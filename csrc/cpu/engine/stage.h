// One stage of the fused engine (engine/network.h), forward and backward over a few images whose activations
// stay in the cache. All values are in the compute type and contiguous. Serial: the engine gives each thread
// images of its own.
#pragma once

#include <memory>
#include <optional>

#include "cpu/activation.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/conv2d/weight_grad.h"
#include "cpu/conv2d/winograd_conv2d.h"
#include "cpu/engine/pooled_conv2d_grad.h"
#include "cpu/linear/linear.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"
#include "engine/network.h"

namespace lenet_ext::cpu {

template <class S>
class NetStage {
  using T = typename S::Scalar;
  using Core = StageShape::Core;

 public:
  // images: most images per call.
  NetStage(const StageShape& shape, int64_t images, bool backward, bool input_grad)
      : s_(shape), conv_(shape.conv), pool_(shape.pool), input_grad_wanted_(input_grad) {
    // The full-size activation of a block of images exists for a moment only.
    constexpr int64_t kBlockBytes = 256 * 1024;
    block_ = std::clamp<int64_t>(kBlockBytes / (s_.core_size * int64_t{sizeof(T)} + 1), 1,
                                 std::max<int64_t>(images, 1));
    conv_.batch = pool_.batch = block_;
    if (s_.core != Core::kConv2d) return;
    if (WinogradConv2d<S>::suits(conv_)) {
      pools_in_winograd_ = s_.pooled && WinogradConv2d<S>::suits(pool_);
      winograd_.emplace(conv_, pools_in_winograd_);
    } else {
      forward_ = std::make_unique<Correlator<S, T>>(conv2d_forward_problem(conv_, Format::kContiguous));
    }
    if (!backward) return;
    if (s_.pooled && PooledConv2dGradient<S>::suits(conv_, pool_)) {
      pooled_.emplace(conv_, pool_, input_grad);
      return;
    }
    if (!input_grad) return;
    for (const Correlation& problem : conv2d_input_grad_problems(conv_, Format::kContiguous)) {
      input_grad_.push_back(std::make_unique<Correlator<S, T>>(problem));
    }
  }

  // To be called before the first pass, and after the values have changed. bias may be null.
  void set_parameters(const T* weight, const T* bias) {
    weight_ = weight, bias_ = bias;
    if (forward_) forward_->set_weights(weight, bias);
    if (winograd_) winograd_->set_weights(weight, bias);
    if (pooled_ && input_grad_wanted_) pooled_->set_weight(weight);
    for (const auto& correlator : input_grad_) correlator->set_weights(weight, nullptr);
  }

  // taps may be null.
  void forward(int64_t images, const T* input, T* output, uint8_t* taps) const {
    const bool full = s_.pooled && s_.core == Core::kConv2d;
    if (winograd_ && (pools_in_winograd_ || !full)) {
      winograd_->run(images, input, output, full ? taps : nullptr);
      if (s_.relu) relu<S>(images * s_.output_size, output, output);
      return;
    }
    Scratch<T> block(full ? block_ * s_.core_size : 0);
    for (int64_t i = 0; i < images; i += block_) {
      const int64_t count = std::min(block_, images - i);
      const T* x = input + i * s_.input_size;
      T* const y = output + i * s_.output_size;
      T* const core = full ? block.data() : y;
      if (winograd_) winograd_->run(count, x, core, nullptr);
      if (forward_) forward_->run(x, core, count);
      if (s_.core == Core::kLinear) linear<S>(linear_shape(count), x, weight_, bias_, core);
      if (s_.core == Core::kConv2d || s_.core == Core::kLinear) x = core;
      if (s_.pooled) {
        max_pool2d<S>(pool_shape(count), Format::kContiguous, x, y,
                      taps == nullptr ? nullptr : taps + i * s_.tap_bytes());
        x = y;
      }
      if (s_.relu) {
        relu<S>(count * s_.output_size, x, y);
      } else if (x != y) {
        std::copy_n(x, count * s_.output_size, y);
      }
    }
  }

  // Partial sums of the weight and bias gradient, to be zeroed, added to by backward and summed by the
  // caller, then brought into order by with_gradients.
  int64_t sums_size() const { return pooled_ ? pooled_->sums_size() : s_.parameter_count(); }

  // grad_output is overwritten; grad_input may be null, sums too (no parameter gradient is wanted).
  void backward(int64_t images, const T* input, const T* output, const uint8_t* taps, T* grad_output,
                T* grad_input, T* sums) const {
    if (s_.relu) relu_grad<S>(images * s_.output_size, grad_output, output, grad_output);
    if (s_.core == Core::kLinear) return linear_backward(images, input, grad_output, grad_input, sums);
    if (pooled_) {
      typename PooledConv2dGradient<S>::Memory memory(*pooled_, grad_input != nullptr);
      for (int64_t i = 0; i < images; ++i) {
        pooled_->add(input + i * s_.input_size, grad_output + i * s_.output_size, taps + i * s_.tap_bytes(),
                     sums, grad_input == nullptr ? nullptr : grad_input + i * s_.input_size, memory);
      }
      return;
    }
    const bool dense_sums = s_.core == Core::kConv2d && sums != nullptr;
    if (grad_input == nullptr && !dense_sums) return;
    const bool full = s_.pooled && s_.core == Core::kConv2d;
    Scratch<T> block(full ? block_ * s_.core_size : 0);
    for (int64_t i = 0; i < images; i += block_) {
      const int64_t count = std::min(block_, images - i);
      const T* grad = grad_output + i * s_.output_size;
      T* const grad_x = grad_input == nullptr ? nullptr : grad_input + i * s_.input_size;
      if (s_.pooled) {
        T* const to = full ? block.data() : grad_x;
        max_pool2d_input_grad<S>(pool_shape(count), Format::kContiguous, grad, taps + i * s_.tap_bytes(), to);
        grad = to;
      }
      if (dense_sums) add_weight_grad(count, input + i * s_.input_size, grad, sums);
      if (grad_x == nullptr) continue;
      for (const auto& correlator : input_grad_) correlator->run(grad, grad_x, count);
      if (s_.core == Core::kNone && !s_.pooled) std::copy_n(grad, count * s_.input_size, grad_x);
    }
  }

  // backward for the only tile of a batch: no partial sums, but use(parameter, first, count, gradient,
  // factor) for pieces of the gradients, factor * gradient (parameter 0: weight, 1: bias), which are still in
  // the cache then. use may change the parameters.
  template <class Use>
  void backward_once(int64_t images, const T* input, const T* output, const uint8_t* taps, T* grad_output,
                     T* grad_input, const Use& use) const {
    if (s_.core != Core::kLinear) {
      Scratch<T> sums(sums_size());
      std::fill_n(sums.data(), sums_size(), T(0));
      backward(images, input, output, taps, grad_output, grad_input, sums.data());
      if (s_.weight_size == 0) return;
      return with_gradients(sums.data(), [&](const T* weight, const T* bias) {
        use(0, 0, s_.weight_size, weight, T(1));
        if (s_.bias) use(1, 0, s_.bias_size, bias, T(1));
      });
    }
    if (s_.relu) relu_grad<S>(images * s_.output_size, grad_output, output, grad_output);
    linear_backward(images, input, grad_output, grad_input, nullptr);
    constexpr int64_t kPieceBytes = 256 * 1024;  // rows together, so that the images are read less often
    const int64_t in = s_.linear.in_features, out = s_.linear.out_features;
    const int64_t rows = std::clamp<int64_t>(kPieceBytes / (in * int64_t{sizeof(T)}), 1, out);
    Scratch<T> zeros(in), bias(out);
    std::fill_n(zeros.data(), in, T(0));
    parallel_for((out + rows - 1) / rows, rows * in * images / 4, [&](int64_t begin, int64_t end) {
      Scratch<T> piece(images == 1 ? 0 : rows * in);
      for (int64_t o = begin * rows; o < std::min(end * rows, out); o += rows) {
        const int64_t count = std::min(rows, out - o);
        if (images == 1) {  // a row of the gradient is a multiple of the image
          for (int64_t r = o; r < o + count; ++r) use(0, r * in, in, input, grad_output[r]);
          continue;
        }
        matmul<S>({count, in, images, grad_output + o, 1, out, input, in, 1, zeros.data(), piece.data()});
        use(0, o * in, count * in, piece.data(), T(1));
      }
    });
    if (!s_.bias) return;
    std::fill_n(bias.data(), out, T(0));
    for (int64_t i = 0; i < images; ++i) add_row<S>(grad_output + i * out, bias.data(), out);
    use(1, 0, out, bias.data(), T(1));
  }

  // use(grad_weight, grad_bias), in the layout of the parameters.
  template <class Use>
  void with_gradients(const T* sums, const Use& use) const {
    if (!pooled_) return use(sums, sums + s_.weight_size);
    Scratch<T> gradients(s_.weight_size);
    use(gradients.data(), pooled_->write(sums, gradients.data()));
  }

 private:
  LinearShape linear_shape(int64_t images) const {
    return {images, s_.linear.in_features, s_.linear.out_features};
  }
  MaxPool2dShape pool_shape(int64_t images) const {
    MaxPool2dShape shape = pool_;
    shape.batch = images;
    return shape;
  }

  void linear_backward(int64_t images, const T* input, const T* grad_output, T* grad_input, T* sums) const {
    const LinearShape shape = linear_shape(images);
    if (sums != nullptr) {
      matmul<S>({shape.out_features, shape.in_features, images, grad_output, 1, shape.out_features, input,
                 shape.in_features, 1, nullptr, sums});
      for (int64_t i = 0; i < images && s_.bias; ++i) {
        add_row<S>(grad_output + i * shape.out_features, sums + s_.weight_size, shape.out_features);
      }
    }
    if (grad_input != nullptr) linear_input_grad<S>(shape, grad_output, weight_, grad_input);
  }

  void add_weight_grad(int64_t images, const T* input, const T* grad_output, T* sums) const {
    Conv2dShape shape = conv_;
    shape.batch = images;
    Scratch<T> gradients(s_.parameter_count());
    conv2d_weight_grad<S>(shape, Format::kContiguous, grad_output, input, gradients.data(),
                          s_.bias ? gradients.data() + s_.weight_size : nullptr);
    add_row<S>(gradients.data(), sums, s_.parameter_count());
  }

  const StageShape& s_;
  Conv2dShape conv_;  // of a block
  MaxPool2dShape pool_;
  int64_t block_;
  std::unique_ptr<Correlator<S, T>> forward_;
  std::optional<WinogradConv2d<S>> winograd_;
  bool pools_in_winograd_ = false;
  std::vector<std::unique_ptr<Correlator<S, T>>> input_grad_;
  std::optional<PooledConv2dGradient<S>> pooled_;
  bool input_grad_wanted_;
  const T *weight_ = nullptr, *bias_ = nullptr;
};

}  // namespace lenet_ext::cpu
