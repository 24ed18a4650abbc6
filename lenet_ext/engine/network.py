"""net: the fused engine's operators, their fake kernels, the autograd Function and the same layer by layer.

The engine computes the whole chain forward, and all its gradients. What else a chain of layers can do
(gradients of gradients, torch.func, forward-mode AD) goes through `layer_by_layer`, which is differentiable
in every way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_dynamo_compiling

from lenet_ext.engine.program import Core, decode
from lenet_ext.ops import _fake
from lenet_ext.ops._autograd import batched_gradient, followed, transformed
from lenet_ext.ops.conv2d import _conv2d
from lenet_ext.ops.linear import _linear
from lenet_ext.ops.max_pool2d import MAX_BYTE_TAPS, _max_pool2d
from lenet_ext.ops.relu import _relu

_inference_op = torch.ops.lenet_ext.net.default
_forward_op = torch.ops.lenet_ext.net_forward.default
_backward_op = torch.ops.lenet_ext.net_backward.default
train = torch.ops.lenet_ext.net_train.default
# A step changes its parameters beneath autograd, which has nothing to record. What torch does between
# autograd and the kernel is still done: it gives tensors with a negative bit their values, for example.
_below_autograd = torch.library.Library("lenet_ext", "IMPL")
for _key in ("AutogradCPU", "AutogradCUDA"):
    _below_autograd.impl("net_train", torch.library.fallthrough_kernel, _key)


class Loss(IntEnum):
    """The numbers are those of csrc/engine/passes.h."""

    CROSS_ENTROPY = 0
    MEAN_SQUARED_ERROR = 1


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of all values inside of the engine."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@_fake.register("net")
def _fake_inference(
    input: Tensor, parameters: Sequence[Tensor], program: Sequence[int], normalization: Tensor | None
) -> Tensor:
    return _fake_forward(input, parameters, program, normalization)[0]


@_fake.register("net_forward")
def _fake_forward(
    input: Tensor, parameters: Sequence[Tensor], program: Sequence[int], normalization: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = input.dtype if input.dtype.is_floating_point else parameters[0].dtype
    stages = list(_stage_outputs(input, parameters, program))
    output = input.new_empty(stages[-1][0], dtype=dtype)
    saved = sum(prod(shape) for shape, _ in stages)
    taps = sum((prod(shape) * tap_bytes + 3) // 4 * 4 for shape, tap_bytes in stages)
    return (
        output,
        input.new_empty(saved, dtype=_compute_dtype(dtype)),
        input.new_empty(taps, dtype=torch.uint8),
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
    return [grad_input, *(p.new_empty(p.shape) for p in parameters if parameter_grads)]


def _stage_outputs(
    input: Tensor, parameters: Sequence[Tensor], program: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], int]]:
    """The output shape of every stage, and the bytes of a tap: 0 without a pool."""
    remaining = iter(parameters)
    batch = input.shape[0]
    activation = torch.empty((1, *input.shape[1:]), device="meta")
    for stage in decode(program):
        weight = None if stage.core == Core.NONE else torch.empty(next(remaining).shape, device="meta")
        if stage.bias:
            next(remaining)
        tap_bytes = 0
        if stage.geometry is not None:
            activation = _conv2d(activation, weight, None, stage.geometry)
        elif weight is not None:
            activation = torch.empty((1, weight.shape[0]), device="meta")
        if stage.pool is not None:
            activation, _ = _max_pool2d(activation, stage.pool[:-1], bool(stage.pool[-1]), False)
            tap_bytes = 1 if prod(stage.pool[:2]) <= MAX_BYTE_TAPS else 4
        if stage.flattened:
            activation = _flat(activation)
        yield (batch, *activation.shape[1:]), tap_bytes


def _flat(activation: Tensor) -> Tensor:
    """(N, ...) as (N, elements). reshape: see max_pool2d.py."""
    return activation.reshape(activation.shape[0], prod(activation.shape[1:]))


class Net(Function):
    """The whole chain as one node, with gradients for the input and every parameter."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, program: tuple[int, ...], normalization: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        output, saved, taps = _forward_op(input, parameters, program, normalization)
        ctx.save_for_backward(input, normalization, saved, taps, *parameters)
        ctx.program = program
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, normalization, saved, taps, *parameters = ctx.saved_tensors
        needs_input, _, _, *needs_parameters = ctx.needs_input_grad
        if not is_dynamo_compiling() and (followed() or batched_gradient(grad_output)):
            needed = (needs_input, *needs_parameters)
            grad_input, *grads = _gradients_layer_by_layer(
                grad_output, (input, *parameters), needed, ctx.program, normalization
            )
            return grad_input, None, None, *grads
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


# torch.autograd.Function.apply would repeat in Python the choice that `net` makes.
_fast_net = super(Function, Net).apply


def net(
    input: Tensor, program: tuple[int, ...], normalization: Tensor | None, parameters: Sequence[Tensor]
) -> Tensor:
    """The output of the chain that `program` describes (csrc/engine/network.h), through one autograd node.

    input: (N, C, H, W) or (N, features) of the dtype of the parameters, or uint8 with `normalization`, a
    float32 (2, C): scale and shift of each channel. Raises RuntimeError where shapes or dtypes do not fit.
    """
    if transformed():
        return layer_by_layer(input, program, normalization, parameters)
    if torch.is_grad_enabled() and (input.requires_grad or any(p.requires_grad for p in parameters)):
        if is_dynamo_compiling():
            return Net.apply(input, program, normalization, *parameters)
        return _fast_net(input, program, normalization, *parameters)
    return _inference_op(input, parameters, program, normalization)


def layer_by_layer(
    input: Tensor, program: tuple[int, ...], normalization: Tensor | None, parameters: Sequence[Tensor]
) -> Tensor:
    """What `net` computes, by the functions of the layers; in float32 at least, like the engine."""
    dtype = input.dtype if normalization is None else parameters[0].dtype
    if any(parameter.dtype != dtype for parameter in parameters):
        dtypes = ", ".join(str(parameter.dtype) for parameter in parameters)
        raise RuntimeError(f"net: all parameters must be of one dtype, that of the input; got {dtypes}")
    compute = _compute_dtype(dtype)
    activation = input.to(compute)
    if normalization is not None:
        scale, shift = normalization.to(compute).reshape(2, -1, *[1] * (input.dim() - 2))
        activation = activation * scale + shift
    remaining = (parameter.to(compute) for parameter in parameters)
    for stage in decode(program):
        weight = None if stage.core == Core.NONE else next(remaining)
        bias = next(remaining) if stage.bias else None
        if stage.geometry is not None:
            activation = _conv2d(activation, weight, bias, stage.geometry)
        elif weight is not None:
            activation = _linear(_flat(activation), weight, bias)
        if stage.pool is not None:
            activation, _ = _max_pool2d(activation, stage.pool[:-1], bool(stage.pool[-1]), False)
        if stage.relu:
            activation = _relu(activation)
        if stage.flattened:
            activation = _flat(activation)
    return activation.to(dtype)


def _gradients_layer_by_layer(
    grad_output: Tensor,
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    program: tuple[int, ...],
    normalization: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of those of `tensors`, input and parameters, that are needed."""
    with torch.enable_grad():
        # Views tell apart the places of a tensor that is used in several.
        input, *parameters = places = [tensor.view_as(tensor) for tensor in tensors]
        output = layer_by_layer(input, program, normalization, parameters)
    wanted = [place for place, need in zip(places, needed, strict=True) if need]
    grads = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=torch.is_grad_enabled()))
    return [next(grads) if need else None for need in needed]


_NAMES = re.compile(r"(net_forward|net|conv2d|linear|max_pool2d|relu): (stage 0: )?")


def block(operator: str, input: Tensor, program: tuple[int, ...], *parameters: Tensor | None) -> Tensor:
    """`net` of one stage, weight and bias or None, as the public function `operator`, which errors name."""
    tensors = [parameter for parameter in parameters if parameter is not None]
    try:
        if tensors[0].numel() == 0:  # which the engine refuses
            return layer_by_layer(input, program, None, tensors)
        return net(input, program, None, tensors)
    except RuntimeError as error:
        name = _NAMES.match(str(error))
        if name is None:
            raise
        reason = str(error)[name.end() :]
        if input.dtype == torch.uint8:  # fit for a network, with a normalization
            reason = "input must be float32, float64, bfloat16 or float16, got Byte"
        raise RuntimeError(f"{operator}: {reason}") from None
