"""What native torch computes in float64 for a call of a raw operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.program import Core, decode

Results = list[Tensor]


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[int]) -> Tensor:
    """geometry: strides, padding (top, bottom, left, right), dilations, groups."""
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = geometry
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, (stride_h, stride_w), 0, (dilation_h, dilation_w), groups)


def gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor) -> Results:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return list(torch.autograd.grad(function(*leaves), leaves, grad_output))


def conv2d_weight_grad(gy: Tensor, x: Tensor, height: int, width: int, *rest: Any) -> Results:
    *geometry, bias = rest
    weight = x.new_zeros(gy.shape[1], x.shape[1] // geometry[-1], height, width)
    (grad,) = gradients(lambda w: convolution(x, w, None, geometry), [weight], gy)
    return [grad, gy.sum((0, 2, 3)) if bias else gy.new_empty(0)]


def conv2d_input_grad(gy: Tensor, weight: Tensor, height: int, width: int, *geometry: int) -> Results:
    x = gy.new_zeros(gy.shape[0], weight.shape[1] * geometry[-1], height, width)
    return gradients(lambda x: convolution(x, weight, None, geometry), [x], gy)


def conv2d_grads(gy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Results:
    return [
        *conv2d_input_grad(gy, weight, *x.shape[2:], *rest[:-1]),
        *conv2d_weight_grad(gy, x, *weight.shape[2:], *rest),
    ]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dim() == 3:
        biases = [None] * len(weight) if bias is None else bias
        return torch.stack([F.linear(*member) for member in zip(x, weight, biases, strict=True)])
    return F.linear(x, weight, bias)


def linear_input_grad(gy: Tensor, weight: Tensor) -> Tensor:
    return linear(gy, weight.mT, None)


def linear_weight_grad(gy: Tensor, x: Tensor, bias: bool, stacked: bool = False) -> Results:
    if stacked:
        members = [linear_weight_grad(*member, bias) for member in zip(gy, x, strict=True)]
        return [torch.stack(grads) for grads in zip(*members, strict=True)]
    rows = gy.reshape(-1, gy.shape[-1]) if gy.numel() else gy.new_zeros(1, gy.shape[-1])
    inputs = x.reshape(-1, x.shape[-1]) if gy.numel() and x.numel() else x.new_zeros(len(rows), x.shape[-1])
    return [rows.t() @ inputs, rows.sum(0) if bias else rows.new_empty(0)]


def pooled(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, ceil_mode = arguments
    pairs = [tuple(geometry[i : i + 2]) for i in range(0, 8, 2)]
    return F.max_pool2d(x, *pairs, ceil_mode=ceil_mode, return_indices=True)


def max_pool2d_input_grad(gy: Tensor, taps: Tensor, height: int, width: int, *geometry: int) -> Results:
    """By the indices of the taps, which are compared with native torch's themselves."""
    indices = torch.ops.lenet_ext.max_pool2d_indices(taps, height, width, *geometry).flatten(2)
    grad = gy.new_zeros(*gy.shape[:2], height * width).scatter_add(2, indices, gy.flatten(2))
    return [grad.unflatten(2, (height, width))]


def chain(x: Tensor, parameters: Sequence[Tensor], program: Sequence[int]) -> Tensor:
    remaining = iter(parameters)
    for stage in decode(program):
        weight = None if stage.core == Core.NONE else next(remaining)
        bias = next(remaining) if stage.bias else None
        if stage.geometry is not None:
            x = convolution(x, weight, bias, stage.geometry)
        elif weight is not None:
            x = F.linear(x.flatten(1), weight, bias)
        x = F.relu(x) if stage.relu else x
        if stage.pool is not None:
            x = pooled(x, *stage.pool[:-1], bool(stage.pool[-1]))[0]
        x = x.flatten(1) if stage.flattened else x
    return x


def normalized(images: Tensor, normalization: Tensor | None) -> Tensor:
    """uint8 images are values 0 to 255 here, whose gray channels or features share a scale."""
    if normalization is None:
        return images
    scale, shift = normalization.reshape(2, -1, *[1] * (images.dim() - 2))
    return images * scale + shift


def net_backward(gy: Tensor, x: Tensor, parameters: list[Tensor], *rest: Any) -> Results:
    _, _, program, normalization, input_grad, parameter_grads = rest
    x = normalized(x, normalization)
    grads = gradients(lambda x, *p: chain(x, p, program), [x, *parameters], gy)
    return [grads[0] if input_grad else gy.new_empty(0), *(grads[1:] if parameter_grads else [])]


def net_loss(
    images: Tensor, targets: Tensor, order: Tensor | None, parameters: list[Tensor], *rest: Any
) -> Results:
    """The loss of the first step, if there is one."""
    _, program, normalization, batch_size, *_, kind, _ = rest
    chosen = slice(None) if order is None else order.long()
    images, targets = images[chosen], targets[chosen]
    if len(images) == 0:
        return [torch.empty(0)]
    count = batch_size or len(images)
    output = chain(normalized(images[:count], normalization), parameters, program)
    loss = F.mse_loss(output, targets[:count]) if kind else F.cross_entropy(output, targets[:count].long())
    return [loss.reshape(1)]


# The first results of each operator, those behind them being internal; max_pool2d's taps as indices.
ORACLES: dict[str, Callable[..., Results]] = {
    "conv2d": lambda x, weight, bias, *geometry: [convolution(x, weight, bias, geometry)],
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "conv2d_grads": conv2d_grads,
    "linear": lambda x, weight, bias: [linear(x, weight, bias)],
    "linear_input_grad": lambda gy, weight: [linear_input_grad(gy, weight)],
    "linear_weight_grad": linear_weight_grad,
    "linear_grads": lambda gy, x, weight, bias: [
        linear_input_grad(gy, weight),
        *linear_weight_grad(gy, x, bias, weight.dim() == 3),
    ],
    "max_pool2d": lambda x, *arguments: list(pooled(x, *arguments[:-1]))[: 1 + arguments[-1]],
    "max_pool2d_input_grad": max_pool2d_input_grad,
    "relu": lambda x: [F.relu(x)],
    "relu_": lambda x: [F.relu(x)],
    "relu_grad": lambda gy, y: [torch.ops.aten.threshold_backward(gy, y, 0)],
    "net": lambda x, p, program, norm: [chain(normalized(x, norm), p, program)],
    "net_forward": lambda x, p, program, norm: [chain(normalized(x, norm), p, program)],
    "net_backward": net_backward,
    "net_train": net_loss,
}
