// The passes of the fused engine: inference or the forward half of training, backward, a whole training step.
#pragma once

#include "cpu/engine/segment.h"
#include "cpu/engine/tensors.h"
#include "cpu/engine/wide.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
void net_forward(const NetShape& shape, const NetForward& pass) {
  using T = typename S::Scalar;
  if (const size_t head = wide_head(shape); head < shape.stages.size()) {
    return WideNet<S, Stored>(shape, head).forward(pass);
  }
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  const auto kept = Net<S>::of(shape, false, false);
  Net<S>& net = *kept;
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
  if (const size_t head = wide_head(shape); head < shape.stages.size()) {
    return WideNet<S, Stored>(shape, head).backward(pass);
  }
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  const auto kept = Net<S>::of(shape, true, pass.grad_input != nullptr);
  Net<S>& net = *kept;
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
  net.with_gradients(backward, [&](auto... piece) { write_gradient<S, Stored>(pass, piece...); });
}

template <class S, class Stored>
void net_train(const NetShape& shape, const NetTrain& pass) {
  using T = typename S::Scalar;
  if (const size_t head = wide_head(shape); head < shape.stages.size()) {
    return WideNet<S, Stored>(shape, head).train(pass);
  }
  const WideParameters<S, Stored> parameters(shape, pass.parameters);
  const auto kept = Net<S>::of(shape, true, false);
  Net<S>& net = *kept;
  net.set_parameters(parameters.pointers());
  const int64_t tile = net.tile_images();
  std::vector<double> losses(net.chunks());
  const auto pass_tile = [&](int64_t first, int64_t count, int64_t chunk, const auto& sink) {
    Scratch<T> images(tile * shape.stages.front().input_size), values(net.values_size(tile));
    Scratch<uint8_t> taps(net.taps_size(tile));
    Scratch<T> grads(2 * net.grads_size());
    const Activations<T> activations{values.data(), taps.data(), tile};
    const T* x = load_images<S, Stored>(shape, pass.images, first, count, images.data());
    net.forward(count, x, activations, 0);
    losses[chunk] +=
        loss_and_gradient<S, Stored>(shape, pass, first, count, net.output(activations, 0), grads.data());
    net.backward(count, x, activations, 0, {grads.data(), grads.data() + net.grads_size()}, nullptr, sink);
  };
  net.with_gradients(pass_tile, [&](int parameter, auto... piece) {
    update_parameter<S, Stored>(pass, parameter, net.parameter_offset(parameter), piece...);
  });
  double mean = 0;
  for (double loss : losses) mean += loss / loss_terms(shape, pass);
  from_compute(static_cast<T>(mean), *static_cast<Stored*>(pass.mean_loss));
}

}  // namespace lenet_ext::cpu
