// Where tensors enter and leave the fused engine: images, parameters, targets and updates, widened from
// 16-bit types and narrowed to them.
#pragma once

#include "cpu/engine/loss.h"
#include "cpu/engine/optimizer.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"
#include "engine/passes.h"

namespace lenet_ext::cpu {

// `count` images from `first` on in the compute type: the memory itself, or converted into `buffer`.
template <class S, class Stored>
const typename S::Scalar* load_images(const NetShape& shape, const NetImages& images, int64_t first,
                                      int64_t count, typename S::Scalar* buffer) {
  using T = typename S::Scalar;
  const int64_t size = shape.stages.front().input_size;
  if constexpr (std::is_same_v<T, Stored>) {
    if (!images.bytes && images.order == nullptr) return static_cast<const T*>(images.data) + first * size;
  }
  const int64_t channels = shape.image_sizes[0], plane = size / std::max<int64_t>(channels, 1);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t source = (images.order == nullptr ? first + i : images.order[first + i]) * size;
    T* to = buffer + i * size;
    if (!images.bytes) {
      copy_row<S>(static_cast<const Stored*>(images.data) + source, to, size);
      continue;
    }
    const uint8_t* from = static_cast<const uint8_t*>(images.data) + source;
    for (int64_t c = 0; c < channels; ++c, from += plane, to += plane) {
      const auto scale = S::broadcast(T(images.scale[c])), shift = S::broadcast(T(images.shift[c]));
      for (int64_t j = 0; j < plane; j += S::width) {
        const int n = static_cast<int>(std::min<int64_t>(S::width, plane - j));
        S::store_partial(to + j, S::fma(S::load_bytes(from + j, n), scale, shift), n);
      }
    }
  }
  return buffer;
}

// The parameters in the compute type: the tensors themselves, or widened copies.
template <class S, class Stored>
class WideParameters {
  using T = typename S::Scalar;

 public:
  WideParameters(const NetShape& shape, const void* const* parameters)
      : memory_(kSame ? 0 : shape.parameter_count()) {
    T* to = memory_.data();
    for (const StageShape& stage : shape.stages) {
      for (int64_t size : {stage.weight_size, stage.bias_size}) {
        if (size == 0) continue;
        const auto* from = static_cast<const Stored*>(parameters[pointers_.size()]);
        if constexpr (kSame) {
          pointers_.push_back(from);
        } else {
          copy_row<S>(from, to, size);
          pointers_.push_back(to);
          to += size;
        }
      }
    }
  }
  const T* const* pointers() const { return pointers_.data(); }

 private:
  static constexpr bool kSame = std::is_same_v<T, Stored>;
  Scratch<T> memory_;
  std::vector<const T*> pointers_;
};

// What the mean of the losses is taken over.
inline double loss_terms(const NetShape& shape, const NetTrain& pass) {
  const int64_t size = pass.loss == Loss::kCrossEntropy ? 1 : shape.stages.back().output_size;
  return static_cast<double>(shape.batch * size);
}

// The sum of the losses of images [first, first + count) of the batch; grads: the gradient of the mean loss.
template <class S, class Stored>
double loss_and_gradient(const NetShape& shape, const NetTrain& pass, int64_t first, int64_t count,
                         const typename S::Scalar* output, typename S::Scalar* grads) {
  using T = typename S::Scalar;
  const int64_t size = shape.stages.back().output_size;
  const T scale = static_cast<T>(1 / loss_terms(shape, pass));
  double sum = 0;
  for (int64_t i = 0; i < count; ++i, output += size, grads += size) {
    const int64_t source = pass.images.order == nullptr ? first + i : pass.images.order[first + i];
    if (pass.loss == Loss::kCrossEntropy) {
      sum +=
          cross_entropy<S>(1, size, output, static_cast<const int64_t*>(pass.targets) + source, scale, grads);
    } else {
      copy_row<S>(static_cast<const Stored*>(pass.targets) + source * size, grads, size);
      sum += squared_error<S>(size, output, grads, scale, grads);
    }
  }
  return sum;
}

// A piece of a gradient, factor * gradient, to elements [begin, begin + size) of where a parameter's is
// wanted.
template <class S, class Stored>
void write_gradient(const NetBackward& pass, int parameter, int64_t begin, int64_t size,
                    const typename S::Scalar* gradient, typename S::Scalar factor) {
  Stored* const to = static_cast<Stored*>(pass.grad_parameters[parameter]) + begin;
  const auto scale = S::broadcast(factor);
  for (int64_t i = 0; i < size; i += S::width) {
    const int n = static_cast<int>(std::min<int64_t>(S::width, size - i));
    S::store_partial(to + i, S::fma(scale, S::load_partial(gradient + i, n), S::zero()), n);
  }
}

// The update of elements [begin, begin + size) of a parameter; buffer_offset: elements of those before it.
template <class S, class Stored>
void update_parameter(const NetTrain& pass, int parameter, int64_t buffer_offset, int64_t begin, int64_t size,
                      const typename S::Scalar* gradient, typename S::Scalar factor) {
  auto* values = static_cast<Stored*>(pass.parameters[parameter]) + begin;
  auto* buffer = static_cast<Stored*>(pass.buffers);
  if (buffer != nullptr) buffer += buffer_offset + begin;
  constexpr int64_t kBlock = 8192;
  parallel_for((size + kBlock - 1) / kBlock, kBlock / 4, [&](int64_t first_block, int64_t last_block) {
    const int64_t first = first_block * kBlock, count = std::min(last_block * kBlock, size) - first;
    sgd<S>(pass.sgd, count, gradient + first, factor, buffer ? buffer + first : nullptr, values + first);
  });
}

}  // namespace lenet_ext::cpu
