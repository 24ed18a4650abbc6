// The passes of the fused engine: inference or the forward half of training, backward, a whole training step.
// Tensors of a 16-bit type are widened where they enter and narrowed where they leave.
#pragma once

#include "cpu/loss.h"
#include "cpu/net.h"
#include "cpu/sgd.h"

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

template <class S, class Stored>
void net_forward(const NetShape& shape, const NetForward& pass) {
  using T = typename S::Scalar;
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  Net<S>& net = Net<S>::of(shape, false, false);
  net.set_parameters(parameters.pointers());
  const int64_t tile = net.tile_images(), out = net.output_size();
  net.for_each_tile([&](int64_t first, int64_t count) {
    Scratch<T> images(tile * shape.stages.front().input_size);
    Scratch<T> values(pass.saved == nullptr ? net.values_size(tile) : 0);
    const T* x = load_images<S, Stored>(shape, pass.images, first, count, images.data());
    const bool saved = pass.saved != nullptr;
    const Activations<T> activations =
        saved ? Activations<T>{static_cast<T*>(pass.saved), pass.taps, shape.batch}
              : Activations<T>{values.data(), nullptr, tile};
    net.forward(count, x, activations, saved ? first : 0);
    copy_row<S>(net.output(activations, saved ? first : 0), static_cast<Stored*>(pass.output) + first * out,
                count * out);
  });
}

template <class S, class Stored>
void net_backward(const NetShape& shape, const NetBackward& pass) {
  using T = typename S::Scalar;
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  Net<S>& net = Net<S>::of(shape, true, pass.grad_input != nullptr);
  net.set_parameters(parameters.pointers());
  const int64_t tile = net.tile_images(), out = net.output_size();
  const int64_t in = shape.stages.front().input_size;
  const Activations<T> activations{static_cast<T*>(const_cast<void*>(pass.saved)),
                                   const_cast<uint8_t*>(pass.taps), shape.batch};
  const auto backward = [&](int64_t first, int64_t count, int64_t, const auto& sink) {
    Scratch<T> images(tile * in), grads(2 * net.grads_size()), grad_input(pass.grad_input ? tile * in : 0);
    const T* x = load_images<S, Stored>(shape, pass.images, first, count, images.data());
    copy_row<S>(static_cast<const Stored*>(pass.grad_output) + first * out, grads.data(), count * out);
    net.backward(count, x, activations, first, {grads.data(), grads.data() + net.grads_size()},
                 pass.grad_input ? grad_input.data() : nullptr, sink);
    if (pass.grad_input) {
      copy_row<S>(grad_input.data(), static_cast<Stored*>(pass.grad_input) + first * in, count * in);
    }
  };
  if (pass.grad_parameters == nullptr) {
    net.for_each_tile(
        [&](int64_t first, int64_t count) { backward(first, count, 0, static_cast<T*>(nullptr)); });
    return;
  }
  net.with_gradients(backward, [&](int parameter, int64_t first, int64_t count, const T* gradient) {
    copy_row<S>(gradient, static_cast<Stored*>(pass.grad_parameters[parameter]) + first, count);
  });
}

template <class S, class Stored>
void net_train(const NetShape& shape, const NetTrain& pass) {
  using T = typename S::Scalar;
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  Net<S>& net = Net<S>::of(shape, true, false);
  net.set_parameters(parameters.pointers());
  const int64_t tile = net.tile_images(), out = net.output_size();
  std::vector<double> losses(net.chunks());
  const bool classes = pass.loss == Loss::kCrossEntropy;
  const double terms = static_cast<double>(classes ? shape.batch : shape.batch * out);
  const T scale = static_cast<T>(1 / terms);
  const auto target = [&](int64_t i) { return pass.images.order == nullptr ? i : pass.images.order[i]; };
  const auto pass_tile = [&](int64_t first, int64_t count, int64_t chunk, const auto& sink) {
    Scratch<T> images(tile * shape.stages.front().input_size), values(net.values_size(tile));
    Scratch<uint8_t> taps(net.taps_size(tile));
    Scratch<T> grads(2 * net.grads_size());
    const Activations<T> activations{values.data(), taps.data(), tile};
    const T* x = load_images<S, Stored>(shape, pass.images, first, count, images.data());
    net.forward(count, x, activations, 0);
    const T* y = net.output(activations, 0);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t source = target(first + i);
      T* const grad = grads.data() + i * out;
      if (classes) {
        sum += cross_entropy<S>(1, out, y + i * out, static_cast<const int64_t*>(pass.targets) + source,
                                scale, grad);
      } else {
        copy_row<S>(static_cast<const Stored*>(pass.targets) + source * out, grad, out);
        sum += squared_error<S>(out, y + i * out, grad, scale, grad);
      }
    }
    losses[chunk] += sum;
    net.backward(count, x, activations, 0, {grads.data(), grads.data() + net.grads_size()}, nullptr, sink);
  };
  net.with_gradients(pass_tile, [&](int parameter, int64_t begin, int64_t size, const T* gradient) {
    auto* values = static_cast<Stored*>(pass.parameters[parameter]) + begin;
    auto* buffer = static_cast<Stored*>(pass.buffers);
    if (buffer != nullptr) buffer += net.parameter_offset(parameter) + begin;
    constexpr int64_t kBlock = 8192;
    parallel_for((size + kBlock - 1) / kBlock, kBlock / 4, [&](int64_t first_block, int64_t last_block) {
      const int64_t first = first_block * kBlock, count = std::min(last_block * kBlock, size) - first;
      sgd<S>(pass.sgd, count, gradient + first, buffer ? buffer + first : nullptr, values + first);
    });
  });
  double mean = 0;
  for (double loss : losses) mean += loss / terms;
  from_compute(static_cast<T>(mean), *static_cast<Stored*>(pass.mean_loss));
}

}  // namespace lenet_ext::cpu
