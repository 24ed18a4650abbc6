// conv2d forward and its two gradients: which way each is computed is chosen here, for the layers that are
// called one by one as for the fused engine. Plans are made and weights packed once, for any number of runs.
#pragma once

#include <optional>

#include "cpu/conv2d/caller.h"
#include "cpu/conv2d/correlate.h"
#include "cpu/conv2d/depthwise.h"
#include "cpu/conv2d/depthwise_weight_grad.h"
#include "cpu/conv2d/patch_grad.h"
#include "cpu/conv2d/problems.h"
#include "cpu/conv2d/weight_grad.h"
#include "cpu/conv2d/winograd_method.h"

namespace lenet_ext::cpu {

// output (N, O, OH, OW) = input (N, C, H, W) * weight + bias, perhaps followed by a max-pool in the same
// pass.
template <class S, class Stored>
class Conv2dForward {
  static constexpr bool kStoredIsComputed = std::is_same_v<Stored, typename S::Scalar>;

 public:
  // pool: of what follows, or null.
  Conv2dForward(const Conv2dShape& shape, Format format, Caller caller,
                const MaxPool2dShape* pool = nullptr) {
    if (is_depthwise(shape, format)) {
      depthwise_.emplace(shape);
      return;
    }
    if constexpr (kStoredIsComputed) {
      const bool pooled = pool != nullptr && shape.stride_h == 1 && WinogradPlan<S>::suits(*pool);
      if (format == Format::kContiguous && winograd_.plan(shape, pooled, false, caller)) {
        pools_ = pooled;
        return;
      }
    }
    direct_.emplace(conv2d_forward_problem(shape, format));
  }

  // Whether run() includes the pool; whether it cuts its work into blocks for the cache by itself.
  bool pools() const { return pools_; }
  bool is_blocked() const { return bool{winograd_}; }

  // weight: (O, C / groups, KH, KW); bias: (O) or null. To be called before the first run.
  void set_weights(const Stored* weight, const Stored* bias) {
    if (depthwise_) return depthwise_->set_weights(weight, bias);
    if constexpr (kStoredIsComputed) {
      if (winograd_) return winograd_.set_weights(weight, bias);
    }
    direct_->set_weights(weight, bias);
  }

  // Of the first `images` images, at most as many as the shape has. argmax: of the pool; null where it is not
  // wanted, or run() does not include the pool.
  void run(int64_t images, const Stored* input, Stored* output, uint8_t* argmax = nullptr) const {
    if (depthwise_) return depthwise_->run(images, input, output);
    if constexpr (kStoredIsComputed) {
      if (winograd_) return winograd_.run(images, input, output, argmax);
    }
    direct_->run(input, output, images);
  }

 private:
  std::optional<DepthwiseForward<S, Stored>> depthwise_;
  std::optional<Correlator<S, Stored>> direct_;
  WinogradMethod<S> winograd_;
  bool pools_ = false;
};

// grad_input (N, C, H, W) from grad_output (N, O, OH, OW).
template <class S, class Stored>
class Conv2dInputGrad {
  static constexpr bool kStoredIsComputed = std::is_same_v<Stored, typename S::Scalar>;

 public:
  Conv2dInputGrad(const Conv2dShape& shape, Format format, Caller caller) {
    if (is_depthwise(shape, format)) {
      depthwise_.emplace(shape);
      return;
    }
    if (caller == Caller::kLayer && PatchGradient<S, Stored>::suits(shape)) {
      patches_.emplace(shape, format);
      return;
    }
    if constexpr (kStoredIsComputed) {
      if (format == Format::kContiguous && input_grad_is_convolution(shape)) {
        if (winograd_.plan(input_grad_convolution(shape), false, true, caller)) return;
      }
    }
    for (const Correlation& problem : conv2d_input_grad_problems(shape, format)) {
      phases_.push_back(std::make_unique<Correlator<S, Stored>>(problem));
    }
  }

  // weight: (O, C / groups, KH, KW); bias: (C) to add, or null; of the engine alone. To be called before the
  // first run.
  void set_weight(const Stored* weight, const Stored* bias = nullptr) {
    if constexpr (kStoredIsComputed) {
      if (winograd_) return winograd_.set_weights(weight, bias, WinogradKernels::kTurned);
    }
    if (depthwise_) depthwise_->set_weight(weight, bias);
    if (patches_) patches_->set_weight(weight);
    for (const auto& phase : phases_) phase->set_weights(weight, bias);
  }

  void run(int64_t images, const Stored* grad_output, Stored* grad_input) const {
    if constexpr (kStoredIsComputed) {
      if (winograd_) return winograd_.run(images, grad_output, grad_input, nullptr);
    }
    if (depthwise_) depthwise_->run(images, grad_output, grad_input);
    if (patches_) patches_->run(grad_output, grad_input, images);
    for (const auto& phase : phases_) phase->run(grad_output, grad_input, images);
  }

 private:
  WinogradMethod<S> winograd_;
  std::optional<DepthwiseInputGrad<S, Stored>> depthwise_;
  std::optional<PatchGradient<S, Stored>> patches_;
  std::vector<std::unique_ptr<Correlator<S, Stored>>> phases_;  // of the stride
};

// grad_weight (O, C / groups, KH, KW) and grad_bias (O).
template <class S, class Stored>
class Conv2dWeightGrad {
 public:
  Conv2dWeightGrad(const Conv2dShape& shape, Format format, Caller caller) {
    if (is_depthwise(shape, format)) {
      depthwise_.emplace(shape);
    } else {
      general_.emplace(shape, format, caller);
    }
  }

  // Of the first `images` images. grad_bias may be null.
  void run(const Stored* grad_output, const Stored* input, int64_t images, Stored* grad_weight,
           Stored* grad_bias) const {
    if (depthwise_) return depthwise_->run(grad_output, input, images, grad_weight, grad_bias);
    general_->run(grad_output, input, images, grad_weight, grad_bias);
  }

  // The same in two steps, for gradients that are summed over several calls: see WeightGradient.
  int64_t sums_size() const { return depthwise_ ? depthwise_->sums_size() : general_->sums_size(); }
  void add(const Stored* grad_output, const Stored* input, int64_t images, typename S::Scalar* sums) const {
    if (depthwise_) return depthwise_->add(grad_output, input, images, sums);
    general_->add(grad_output, input, images, sums);
  }
  void write(const typename S::Scalar* sums, Stored* grad_weight, Stored* grad_bias) const {
    if (depthwise_) return depthwise_->write(sums, grad_weight, grad_bias);
    general_->write(sums, grad_weight, grad_bias);
  }

 private:
  std::optional<DepthwiseWeightGrad<S, Stored>> depthwise_;
  std::optional<WeightGradient<S, Stored>> general_;
};

// bias may be null.
template <class S, class Stored>
void conv2d(const Conv2dShape& s, Format format, const Stored* input, const Stored* weight,
            const Stored* bias, Stored* output) {
  Conv2dForward<S, Stored> forward(s, format, Caller::kLayer);
  forward.set_weights(weight, bias);
  forward.run(s.batch, input, output);
}

template <class S, class Stored>
void conv2d_input_grad(const Conv2dShape& s, Format format, const Stored* grad_output, const Stored* weight,
                       Stored* grad_input) {
  Conv2dInputGrad<S, Stored> input_grad(s, format, Caller::kLayer);
  input_grad.set_weight(weight);
  input_grad.run(s.batch, grad_output, grad_input);
}

// grad_bias may be null.
template <class S, class Stored>
void conv2d_weight_grad(const Conv2dShape& s, Format format, const Stored* grad_output, const Stored* input,
                        Stored* grad_weight, Stored* grad_bias) {
  Conv2dWeightGrad<S, Stored>(s, format, Caller::kLayer)
      .run(grad_output, input, s.batch, grad_weight, grad_bias);
}

}  // namespace lenet_ext::cpu
