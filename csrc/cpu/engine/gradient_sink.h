// Where a backward pass leaves the gradients of parameters.
#pragma once

#include <cstdint>

namespace lenet_ext::cpu {

template <class T>
class GradientSink {
 public:
  // Takes elements [first, first + count) of a parameter's gradient, which are factor * values.
  using Take = void (*)(const void* context, int parameter, int64_t first, int64_t count, const T* values,
                        T factor);

  // No gradients are wanted.
  static GradientSink none() { return {}; }

  // Partial sums of a chunk of the batch, in a layout of the stage's own: added to.
  static GradientSink sums(T* sums) {
    GradientSink sink;
    sink.sums_ = sums;
    return sink;
  }

  // For a batch that is a single tile: the gradients themselves, piece by piece, while they are in the cache.
  // take(parameter, first, count, values, factor) may change the parameter; the sink refers to it.
  template <class Body>
  static GradientSink pieces(const Body& take) {
    GradientSink sink;
    sink.context_ = &take;
    sink.take_ = [](const void* context, int parameter, int64_t first, int64_t count, const T* values,
                    T factor) {
      (*static_cast<const Body*>(context))(parameter, first, count, values, factor);
    };
    return sink;
  }

  bool is_wanted() const { return sums_ != nullptr || take_ != nullptr; }
  bool takes_pieces() const { return take_ != nullptr; }

  T* sums() const { return sums_; }
  void take(int parameter, int64_t first, int64_t count, const T* values, T factor = T(1)) const {
    if (take_ != nullptr) take_(context_, parameter, first, count, values, factor);
  }

 private:
  T* sums_ = nullptr;
  const void* context_ = nullptr;
  Take take_ = nullptr;
};

}  // namespace lenet_ext::cpu
