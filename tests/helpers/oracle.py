"""What native torch computes in float64 for a call of a raw operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers import Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d
from lenet_ext.engine.network import Network

Results = list[Tensor]
TRAINING = ("loss ", "optimizer ")  # lines of a program that are not the network's


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[int]) -> Tensor:
    """geometry: strides, padding (top, bottom, left, right), dilations, groups."""
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = geometry
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, (stride_h, stride_w), 0, (dilation_h, dilation_w), groups)


def gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor) -> Results:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return list(torch.autograd.grad(function(*leaves), leaves, grad_output))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: int) -> Results:
    return [convolution(x, weight, bias, geometry)]


def conv2d_weight_grad(gy: Tensor, x: Tensor, height: int, width: int, *rest: Any) -> Results:
    *geometry, bias = rest
    weight = x.new_zeros(gy.shape[1], x.shape[1] // geometry[-1], height, width)
    (grad,) = gradients(lambda w: convolution(x, w, None, geometry), [weight], gy)
    return [grad, gy.sum((0, 2, 3)) if bias else x.new_empty(0)]


def conv2d_input_grad(gy: Tensor, weight: Tensor, height: int, width: int, *geometry: int) -> Results:
    x = gy.new_zeros(gy.shape[0], weight.shape[1] * geometry[-1], height, width)
    return gradients(lambda x: convolution(x, weight, None, geometry), [x], gy)


def conv2d_grads(gy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Results:
    return [
        *conv2d_input_grad(gy, weight, *x.shape[2:], *rest[:-1]),
        *conv2d_weight_grad(gy, x, *weight.shape[2:], *rest),
    ]


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dim() == 3:
        biases = [None] * len(weight) if bias is None else bias
        return torch.stack([F.linear(*member) for member in zip(x, weight, biases, strict=True)])
    return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Results:
    return [product(x, weight, bias)]


def linear_input_grad(gy: Tensor, weight: Tensor) -> Results:
    return [product(gy, weight.mT, None)]


def linear_weight_grad(gy: Tensor, x: Tensor, bias: bool, stacked: bool = False) -> Results:
    if stacked:
        members = [linear_weight_grad(*member, bias) for member in zip(gy, x, strict=True)]
        return [torch.stack(grads) for grads in zip(*members, strict=True)]
    rows = gy.reshape(-1, gy.shape[-1]) if gy.numel() else gy.new_zeros(1, gy.shape[-1])
    inputs = x.reshape(-1, x.shape[-1]) if gy.numel() and x.numel() else x.new_zeros(len(rows), x.shape[-1])
    return [rows.t() @ inputs, rows.sum(0) if bias else rows.new_empty(0)]


def linear_grads(gy: Tensor, x: Tensor, weight: Tensor, bias: bool) -> Results:
    return [*linear_input_grad(gy, weight), *linear_weight_grad(gy, x, bias, weight.dim() == 3)]


def pooled(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, ceil_mode = arguments
    pairs = [tuple(geometry[i : i + 2]) for i in range(0, 8, 2)]
    return F.max_pool2d(x, *pairs, ceil_mode=ceil_mode, return_indices=True)


def max_pool2d(x: Tensor, *arguments: Any) -> Results:
    """The maxima, and where they are asked for their indices."""
    *geometry, with_argmax = arguments
    return list(pooled(x, *geometry))[: 1 + with_argmax]


def max_pool2d_input_grad(gy: Tensor, argmax: Tensor, height: int, width: int, *geometry: int) -> Results:
    """By the indices, which are compared with native torch's themselves."""
    indices = torch.ops.lenet_ext.max_pool2d_indices(argmax, height, width, *geometry).flatten(2)
    grad = gy.new_zeros(*gy.shape[:2], height * width).scatter_add(2, indices, gy.flatten(2))
    return [grad.unflatten(2, (height, width))]


def relu(x: Tensor) -> Results:
    return [F.relu(x)]


def relu_grad(gy: Tensor, y: Tensor) -> Results:
    return [torch.ops.aten.threshold_backward(gy, y, 0)]


def leaky_relu(x: Tensor, name: str, options: Sequence[float]) -> Tensor:
    """The one activation that is compared here, with slopes that every dtype can hold."""
    (slope,) = options
    if name != "leaky_relu" or not abs(slope) <= 1:
        raise ValueError(name, options)
    return F.leaky_relu(x, slope)


def activation(x: Tensor, name: str, options: Sequence[float]) -> Results:
    return [leaky_relu(x, name, options)]


def activation_grad(gy: Tensor, saved: Tensor, name: str, options: Sequence[float]) -> Results:
    return gradients(lambda x: leaky_relu(x, name, options), [saved], gy)


def apply(layer: Layer, x: Tensor, *parameters: Tensor) -> Tensor:
    """What a layer of a network computes."""
    match layer:
        case Conv2d():
            weight, bias = (*parameters, None)[:2]
            return convolution(x, weight, bias, layer.integers)
        case Linear():
            return F.linear(x.flatten(1), *parameters)
        case MaxPool2d(kernel_size, stride, padding, dilation, ceil_mode):
            return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
        case Activation(kind, ()):
            return getattr(F, kind)(x)
        case Flatten():
            return x.flatten(1)
    raise AssertionError(layer)


def output_of(x: Tensor, parameters: Sequence[Tensor], program: str) -> Tensor:
    network = Network.of("\n".join(line for line in program.split("\n") if not line.startswith(TRAINING)))
    values = [x]
    for layer, read, own, _ in network.nodes:
        values.append(apply(layer, *(values[i] for i in read), *(parameters[i] for i in own)))
    return values[network.outputs[0]]


def normalized(images: Tensor, normalization: Tensor | None) -> Tensor:
    """uint8 images are values 0 to 255 here, whose gray channels or features share a scale."""
    if normalization is None:
        return images
    scale, shift = normalization.reshape(2, -1, *[1] * (images.dim() - 2))
    return images * scale + shift


def network(
    x: Tensor, parameters: list[Tensor], program: str, normalization: Tensor | None, seed: None
) -> Results:
    return [output_of(normalized(x, normalization), parameters, program)]


def network_backward(gy: list[Tensor], x: Tensor, parameters: list[Tensor], *rest: Any) -> Results:
    _, _, program, normalization, _, input_grad, parameter_grads = rest
    x = normalized(x, normalization)
    grads = gradients(lambda x, *p: output_of(x, p, program), [x, *parameters], gy[0])
    return [grads[0] if input_grad else x.new_empty(0), *(grads[1:] if parameter_grads else [])]


def network_sample_gradients(
    images: Tensor, targets: Tensor, parameters: list[Tensor], places: list[int], *rest: Any
) -> Results:
    _, program, normalization, *weights = rest
    if any(weight is not None for weight in weights):
        raise ValueError("weights of a loss are not compared")
    rows = sample_rows(normalized(images, normalization), targets, parameters, places, program)
    wanted = [parameters[places.index(place)] for place in range(max(places, default=-1) + 1)]
    if not rows:
        return [p.new_zeros(0, *p.shape) for p in wanted]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def network_clipped_sums(
    images: Tensor,
    targets: Tensor,
    order: Tensor | None,
    parameters: list[Tensor],
    places: list[int],
    *rest: Any,
) -> Results:
    """The sums alone."""
    _, program, normalization, max_norm, *weights = rest
    if any(weight is not None for weight in weights):
        raise ValueError("weights of a loss are not compared")
    chosen = slice(None) if order is None else order.long()
    images, targets = normalized(images, normalization)[chosen], targets[chosen]
    rows = [
        torch.cat([gradient.flatten() for gradient in row])
        for row in sample_rows(images, targets, parameters, places, program)
    ]
    size = sum(parameters[places.index(place)].numel() for place in range(max(places, default=-1) + 1))
    return [sum((row * min(1, max_norm / (row.norm() + 1e-6)) for row in rows), torch.zeros(size))]


def sample_rows(
    images: Tensor, targets: Tensor, parameters: list[Tensor], places: list[int], program: str
) -> list[list[Tensor]]:
    """The gradients of each image, a batch of its own. Parameters of one place are summed over."""
    rows = []
    for i in range(len(images)):
        image, target = images[i : i + 1], targets[i : i + 1]
        own = [parameter.detach().requires_grad_() for parameter in parameters]
        output = output_of(image, own, program)
        mse = "loss mse" in program
        loss = F.mse_loss(output, target) if mse else F.cross_entropy(output, target.long())
        grads = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True) if own else []
        count = max(places, default=-1) + 1
        row = [sum(g for g, place in zip(grads, places, strict=True) if place == k) for k in range(count)]
        rows.append(row)
    return rows


def network_train(
    images: Tensor, targets: Tensor, order: Tensor | None, parameters: list[Tensor], *rest: Any
) -> Results:
    """The loss of the first step, if there is one."""
    _, _, _, _, program, normalization, batch_size, *weights = rest
    if any(weight is not None for weight in weights):
        raise ValueError("weights of a loss are not compared")
    chosen = slice(None) if order is None else order.long()
    images, targets = images[chosen], targets[chosen]
    if len(images) == 0:
        return [torch.empty(0)]
    count = batch_size or len(images)
    output = output_of(normalized(images[:count], normalization), parameters, program)
    if "loss mse" in program:
        return [F.mse_loss(output, targets[:count]).reshape(1)]
    return [F.cross_entropy(output, targets[:count].long()).reshape(1)]


def ensemble(
    images: Tensor, parameters: list[Tensor], members: int, own: bool, program: str, *rest: Any
) -> Results:
    if members > 100:
        raise ValueError("so many members take their time")
    batches = images.unflatten(0, (members, -1)) if own else [images] * members
    of_members = [[parameter[k] for parameter in parameters] for k in range(members)]
    pairs = zip(batches, of_members, strict=True)
    return [torch.stack([network(batch, own, program, rest[0], None)[0] for batch, own in pairs])]


def ensemble_train(
    images: Tensor,
    targets: Tensor,
    order: Tensor | None,
    ranges: Tensor,
    parameters: list[Tensor],
    *rest: Any,
) -> Results:
    """The losses of the members' first steps, NaN where a member has none, if there are any steps."""
    state, options, counts, seeds, program, normalization, batch_size, *weights = rest
    order = torch.arange(len(images)) if order is None else order.long()
    first = []
    for k, (begin, end) in enumerate(ranges.tolist()):
        own, taken = [parameter[k] for parameter in parameters], order[begin : min(end, begin + batch_size)]
        more = (own, state, options, counts, seeds, program, normalization, 0, *weights)
        loss = (
            network_train(images, targets, taken, *more)[0] if len(taken) > 0 else torch.tensor([torch.nan])
        )
        first.append(loss.double())
    losses = torch.cat(first)
    return [losses[: 0 if losses.isnan().all() else None]]
