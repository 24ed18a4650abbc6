// Networks with a wide linear layer. Its weight does not fit into the second-level cache: read anew for every
// tile of images, it would cost more time than the arithmetic. So such a layer and all that follow, the head,
// take the whole batch at once, and threads share the work within a layer; the stages before, the body, run
// tile by tile as ever (segment.h).
#pragma once

#include "cpu/engine/segment.h"
#include "cpu/engine/tensors.h"

namespace lenet_ext::cpu {

// The first stage of the head: the number of stages if there is none.
inline size_t wide_head(const NetShape& shape) {
  constexpr int64_t kWideWeights = 512 * 1024;  // elements
  for (size_t i = 0; i < shape.stages.size(); ++i) {
    const StageShape& stage = shape.stages[i];
    if (stage.core == StageShape::Core::kLinear && stage.weight_size > kWideWeights) return i;
  }
  return shape.stages.size();
}

template <class S, class Stored>
class WideNet {
  using T = typename S::Scalar;

 public:
  WideNet(const NetShape& shape, size_t head)
      : shape_(shape),
        body_shape_(part(shape, 0, head)),
        head_shape_(part(shape, head, shape.stages.size())) {}

  void forward(const NetForward& pass) const {
    const WideParameters<S, Stored> parameters(shape_, pass.parameters);
    const Nets nets(*this, parameters, false, false);
    const int64_t batch = shape_.batch;
    Scratch<T> images(images_size());
    const auto write = [&](const Activations<T>& head) {
      copy_row<S>(nets.head.output(head, 0), static_cast<Stored*>(pass.output),
                  batch * nets.head.output_size());
    };
    if (pass.saved != nullptr) {
      const auto [body, head] = nets.activations(static_cast<T*>(pass.saved), pass.taps);
      nets.forward(pass.images, body, head, images.data());
      return write(head);
    }
    // Only what lies between body and head is kept of the whole batch.
    Scratch<T> middle(nets.has_body ? batch * nets.middle_size() : 0);
    Scratch<T> head_values(nets.head.values_size(batch));
    const Activations<T> head{head_values.data(), nullptr, batch};
    nets.for_each_tile(pass.images, [&](int64_t first, int64_t count, const T* x) {
      Scratch<T> values(nets.body.values_size(nets.body.tile_images()));
      const Activations<T> body{values.data(), nullptr, nets.body.tile_images()};
      nets.body.forward(count, x, body, 0);
      std::copy_n(nets.body.output(body, 0), count * nets.middle_size(),
                  middle.data() + first * nets.middle_size());
    });
    const T* x =
        nets.has_body ? middle.data() : load_images<S, Stored>(shape_, pass.images, 0, batch, images.data());
    nets.head.forward(batch, x, head, 0);
    write(head);
  }

  void backward(const NetBackward& pass) const {
    const WideParameters<S, Stored> parameters(shape_, pass.parameters);
    const bool input_grad = pass.grad_input != nullptr;
    const Nets nets(*this, parameters, true, input_grad);
    Scratch<T> images(images_size()), grads(2 * nets.head.grads_size());
    const auto [body, head] =
        nets.activations(static_cast<T*>(const_cast<void*>(pass.saved)), const_cast<uint8_t*>(pass.taps));
    const T* x = nets.head_input(pass.images, body, images.data());
    copy_row<S>(static_cast<const Stored*>(pass.grad_output), grads.data(),
                shape_.batch * nets.head.output_size());
    const auto use = [&](auto... piece) { write_gradient<S, Stored>(pass, piece...); };
    nets.backward(pass.images, body, head, x, grads.data(), input_grad, pass.grad_parameters != nullptr, use,
                  [&](const T* gradient, int64_t first, int64_t count) {
                    copy_row<S>(gradient, static_cast<Stored*>(pass.grad_input) + first, count);
                  });
  }

  void train(const NetTrain& pass) const {
    const WideParameters<S, Stored> parameters(shape_, pass.parameters);
    const Nets nets(*this, parameters, true, false);
    Scratch<T> values(nets.values_size()), images(images_size()), grads(2 * nets.head.grads_size());
    Scratch<uint8_t> taps(shape_.tap_offset(shape_.stages.size(), shape_.batch));
    const auto [body, head] = nets.activations(values.data(), taps.data());
    const T* x = nets.forward(pass.images, body, head, images.data());
    const double loss =
        loss_and_gradient<S, Stored>(shape_, pass, 0, shape_.batch, nets.head.output(head, 0), grads.data());
    const auto use = [&](int parameter, auto... piece) {
      update_parameter<S, Stored>(pass, parameter, nets.parameter_offset(parameter), piece...);
    };
    nets.backward(pass.images, body, head, x, grads.data(), false, true, use, [](auto...) {});
    from_compute(static_cast<T>(loss / loss_terms(shape_, pass)), *static_cast<Stored*>(pass.mean_loss));
  }

 private:
  static NetShape part(const NetShape& shape, size_t first, size_t last) {
    NetShape part;
    part.stages.assign(shape.stages.begin() + first, shape.stages.begin() + last);
    part.batch = shape.batch;
    return part;
  }
  // Of the batch, where the head is the whole network and takes the images themselves.
  int64_t images_size() const {
    return body_shape_.stages.empty() ? shape_.batch * shape_.stages.front().input_size : 0;
  }

  // Body and head, ready for a pass.
  struct Nets {
    Nets(const WideNet& net, const WideParameters<S, Stored>& parameters, bool backward, bool input_grad)
        : wide(net),
          has_body(!net.body_shape_.stages.empty()),
          body_kept(Net<S>::of(net.body_shape_, backward, input_grad)),
          head_kept(Net<S>::of(net.head_shape_, backward, input_grad || has_body, true)),
          body(*body_kept),
          head(*head_kept) {
      body.set_parameters(parameters.pointers());
      head.set_parameters(parameters.pointers() + body.parameters());
    }

    int64_t values_size() const {
      return body.values_size(wide.shape_.batch) + head.values_size(wide.shape_.batch);
    }
    int64_t parameter_offset(int parameter) const {
      const int first = body.parameters();
      return parameter < first ? body.parameter_offset(parameter)
                               : body.parameter_elements() + head.parameter_offset(parameter - first);
    }
    // Those of the body, then those of the head.
    std::array<Activations<T>, 2> activations(T* values, uint8_t* taps) const {
      const int64_t batch = wide.shape_.batch;
      uint8_t* const head_taps = taps == nullptr ? nullptr : taps + body.taps_size(batch);
      return {Activations<T>{values, taps, batch},
              Activations<T>{values + body.values_size(batch), head_taps, batch}};
    }
    const T* head_input(const NetImages& images, const Activations<T>& of_body, T* memory) const {
      if (has_body) return body.output(of_body, 0);
      return load_images<S, Stored>(wide.shape_, images, 0, wide.shape_.batch, memory);
    }

    int64_t middle_size() const { return wide.head_shape_.stages.front().input_size; }
    // use(first, count, images) for the tiles of the body, if there is one.
    template <class Use>
    void for_each_tile(const NetImages& images, const Use& use) const {
      if (!has_body) return;
      body.for_each_tile([&](int64_t first, int64_t count) {
        Scratch<T> tile(body.tile_images() * wide.shape_.stages.front().input_size);
        use(first, count, load_images<S, Stored>(wide.shape_, images, first, count, tile.data()));
      });
    }

    // Returns what the head took in.
    const T* forward(const NetImages& images, const Activations<T>& of_body, const Activations<T>& of_head,
                     T* memory) const {
      for_each_tile(
          images, [&](int64_t first, int64_t count, const T* x) { body.forward(count, x, of_body, first); });
      const T* x = head_input(images, of_body, memory);
      head.forward(wide.shape_.batch, x, of_head, 0);
      return x;
    }

    // grads: twice head.grads_size(), the gradient of the output first. use: what takes gradients of
    // parameters, if wanted; take_input_grad(gradient, first element, count) those of the images.
    template <class Use, class TakeInputGrad>
    void backward(const NetImages& images, const Activations<T>& of_body, const Activations<T>& of_head,
                  const T* x, T* grads, bool input_grad, bool parameter_grads, const Use& use,
                  const TakeInputGrad& take_input_grad) const {
      const int64_t batch = wide.shape_.batch, in = wide.shape_.stages.front().input_size;
      const int64_t middle = middle_size();
      Scratch<T> grad_x(input_grad || has_body ? batch * middle : 0);
      const std::array<T*, 2> head_grads = {grads, grads + head.grads_size()};
      T* const to = input_grad || has_body ? grad_x.data() : nullptr;
      if (parameter_grads) {
        head.backward(batch, x, of_head, 0, head_grads, to,
                      [&](int parameter, auto... piece) { use(body.parameters() + parameter, piece...); });
      } else {
        head.backward(batch, x, of_head, 0, head_grads, to, static_cast<T*>(nullptr));
      }
      if (!has_body) {
        if (input_grad) take_input_grad(grad_x.data(), 0, batch * in);
        return;
      }
      const auto body_backward = [&](int64_t first, int64_t count, int64_t, const auto& sink) {
        const int64_t tile = body.tile_images();
        Scratch<T> tile_images(tile * in), tile_grads(2 * body.grads_size()),
            tile_grad_x(input_grad ? tile * in : 0);
        const T* tile_x = load_images<S, Stored>(wide.shape_, images, first, count, tile_images.data());
        std::copy_n(grad_x.data() + first * middle, count * middle, tile_grads.data());
        body.backward(count, tile_x, of_body, first,
                      {tile_grads.data(), tile_grads.data() + body.grads_size()},
                      input_grad ? tile_grad_x.data() : nullptr, sink);
        if (input_grad) take_input_grad(tile_grad_x.data(), first * in, count * in);
      };
      if (parameter_grads) {
        body.with_gradients(body_backward, use);
      } else {
        body.for_each_tile(
            [&](int64_t first, int64_t count) { body_backward(first, count, 0, static_cast<T*>(nullptr)); });
      }
    }

    const WideNet& wide;
    const bool has_body;
    const std::shared_ptr<Net<S>> body_kept, head_kept;
    Net<S>&body, &head;
  };

  const NetShape& shape_;
  const NetShape body_shape_, head_shape_;
};

}  // namespace lenet_ext::cpu
