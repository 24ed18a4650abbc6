// The training step of the fused engine.
#pragma once

#include "ops/network_tensors.h"

namespace lenet_ext {

// One step of the program's optimizer for each batch of `batch_size` images, in the order of `order`; the
// loss of each. With batch_size 0 one step with all of them, and its loss as a 0-d tensor. Changes parameters
// and state. options: see TrainPass. loss_weight, loss_pos_weight: see LossTargets.
//
// On the CPU everything is checked before the first step but outputs that are no probabilities where the loss
// needs them: the losses end before the step that has one, and an error is raised if it is the first. On
// CUDA, where the host cannot look at targets, order and outputs without waiting for the device, a step with
// a bad one changes nothing and has the loss NaN.
Tensor network_train(const Tensor& images, const Tensor& targets, const std::optional<Tensor>& order,
                     const Tensors& parameters, const Tensors& state, const Tensor& options,
                     const Tensors& counts, const std::optional<Tensor>& seeds, std::string_view program,
                     const std::optional<Tensor>& normalization, int64_t batch_size,
                     const std::optional<Tensor>& loss_weight, const std::optional<Tensor>& loss_pos_weight);

}  // namespace lenet_ext
