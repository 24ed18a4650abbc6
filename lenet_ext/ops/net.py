"""net: the fused engine's operators, their fake kernels and the autograd Function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d as native_conv2d
from torch.nn.functional import max_pool2d as native_max_pool2d

from lenet_ext.ops import _fake

_forward_op = torch.ops.lenet_ext.net_forward.default
_backward_op = torch.ops.lenet_ext.net_backward.default
train = torch.ops.lenet_ext.net_train.default


class Core(IntEnum):
    """What a stage begins with; the numbers are those of csrc/net_shape.h."""

    NONE = 0
    CONV2D = 1
    LINEAR = 2


class Loss(IntEnum):
    """The numbers are those of csrc/cpu/net_arguments.h."""

    CROSS_ENTROPY = 0
    MEAN_SQUARED_ERROR = 1


@_fake.register("net_forward")
def _fake_forward(
    input: Tensor,
    parameters: Sequence[Tensor],
    program: Sequence[int],
    normalization: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = input.dtype if input.dtype.is_floating_point else parameters[0].dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    stages = list(_stage_outputs(input, parameters, program))
    output = input.new_empty(stages[-1][0], dtype=dtype)
    saved = sum(_elements(shape) for shape, _ in stages)
    taps = sum((_elements(shape) * tap_bytes + 3) // 4 * 4 for shape, tap_bytes in stages)
    return (
        output,
        input.new_empty(saved if save else 0, dtype=compute),
        input.new_empty(taps if save else 0, dtype=torch.uint8),
    )


@_fake.register("net_backward")
def _fake_backward(
    grad_output: Tensor,
    input: Tensor,
    parameters: Sequence[Tensor],
    saved: Tensor,
    taps: Tensor,
    program: Sequence[int],
    normalization: Tensor | None,
    input_grad: bool,
    parameter_grads: bool,
) -> list[Tensor]:
    grad_input = input.new_empty(input.shape if input_grad else 0, dtype=grad_output.dtype)
    return [grad_input, *(map(torch.empty_like, parameters) if parameter_grads else ())]


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _stage_outputs(
    input: Tensor, parameters: Sequence[Tensor], program: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], int]]:
    """The output shape of every stage, and the bytes of a tap: 0 without a pool."""
    values, remaining = iter(program), iter(parameters)

    def take(count: int) -> list[int]:
        return [next(values) for _ in range(count)]

    batch = input.shape[0]
    activation = torch.empty((1, *input.shape[1:]), device="meta")
    for core in values:
        bias, relu, pooled, flattened = take(4)
        del relu  # has no bearing on shapes
        if core == Core.CONV2D:
            stride, (top, bottom, left, right), dilation, groups = take(2), take(4), take(2), next(values)
            padded = torch.nn.functional.pad(activation, (left, right, top, bottom))
            weight = torch.empty(next(remaining).shape, device="meta")
            activation = native_conv2d(padded, weight, None, stride, 0, dilation, groups)
        elif core == Core.LINEAR:
            activation = torch.empty((1, next(remaining).shape[0]), device="meta")
        if bias:
            next(remaining)
        tap_bytes = 0
        if pooled:
            size, stride, padding, dilation = take(2), take(2), take(2), take(2)
            ceil_mode = bool(next(values))
            activation = native_max_pool2d(activation, size, stride, padding, dilation, ceil_mode)
            tap_bytes = 1 if size[0] * size[1] <= 256 else 4
        if flattened:
            activation = activation.flatten(1)
        yield (batch, *activation.shape[1:]), tap_bytes


class Net(Function):
    """The whole chain as one node: differentiable once, with respect to the input and every parameter."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, program: tuple[int, ...], normalization: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        output, saved, taps = _forward_op(input, parameters, program, normalization, True)
        ctx.save_for_backward(input, normalization, saved, taps, *parameters)
        ctx.program = program
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, normalization, saved, taps, *parameters = ctx.saved_tensors
        needs_input, _, _, *needs_parameters = ctx.needs_input_grad
        grad_input, *grads = _backward_op(
            grad_output,
            input,
            parameters,
            saved,
            taps,
            ctx.program,
            normalization,
            needs_input,
            any(needs_parameters),
        )
        wanted = [grad if needed else None for grad, needed in zip(grads, needs_parameters, strict=False)]
        wanted += [None] * (len(needs_parameters) - len(wanted))
        return grad_input if needs_input else None, None, None, *wanted


def net(
    input: Tensor, program: tuple[int, ...], normalization: Tensor | None, parameters: Sequence[Tensor]
) -> Tensor:
    """The output of the chain that `program` describes (csrc/net_shape.h), through one autograd node.

    input: (N, C, H, W) or (N, features) of the dtype of the parameters, or uint8 with `normalization`, a
    float32 (2, C): scale and shift of each channel. Raises RuntimeError where shapes or dtypes do not fit.
    """
    if torch.is_grad_enabled() and (input.requires_grad or any(p.requires_grad for p in parameters)):
        return Net.apply(input, program, normalization, *parameters)
    return _forward_op(input, parameters, program, normalization, False)[0]
