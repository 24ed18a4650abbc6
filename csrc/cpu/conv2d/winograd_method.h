// Winograd's method along both axes or along the height alone, whichever suits a convolution, if any.
#pragma once

#include <optional>

#include "cpu/conv2d/caller.h"
#include "cpu/conv2d/winograd_conv2d.h"
#include "cpu/conv2d/winograd_nested.h"

namespace lenet_ext::cpu {

template <class S>
class WinogradMethod {
  using T = typename S::Scalar;

 public:
  // Plans a convolution of contiguous images, perhaps followed by a 2x2 pool, and returns whether there is a way.
  // saving: only one with clearly fewer products than a direct way that leaves out padding.
  bool plan(const Conv2dShape& s, bool pooled, bool saving, Caller caller) {
    if (NestedWinogradPlan<S>::suits(s) && NestedWinogradPlan<S>::pays(s, caller)) {
      both_.emplace(s, pooled);
    } else if (WinogradPlan<S>::pays(s, caller) && WinogradPlan<S>::suits(s, pooled) &&
               (!saving || WinogradPlan<S>::saves(s))) {
      height_.emplace(s, pooled);
    }
    return both_ || height_;
  }
  explicit operator bool() const { return both_ || height_; }

  // As in WinogradConv2d.
  void set_weights(const T* weight, const T* bias, WinogradKernels kernels = WinogradKernels::kPlain) {
    both_ ? both_->set_weights(weight, bias, kernels) : height_->set_weights(weight, bias, kernels);
  }
  void run(int64_t images, const T* input, T* output, uint8_t* argmax) const {
    both_ ? both_->run(images, input, output, argmax) : height_->run(images, input, output, argmax);
  }

 private:
  std::optional<NestedWinograd<S>> both_;
  std::optional<WinogradConv2d<S>> height_;
};

}  // namespace lenet_ext::cpu
