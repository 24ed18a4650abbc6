"""The fused engine's operators, their fake kernels, and the autograd Function.

The engine computes a whole network forward, and all its gradients. What else a network can do (gradients of
gradients, torch.func, forward-mode AD) goes through `layer_by_layer`, which is differentiable in every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_dynamo_compiling

from lenet_ext._C import check_network, kept_values
from lenet_ext.engine.network import Network
from lenet_ext.ops import _fake
from lenet_ext.ops._autograd import batched_gradient, followed, transformed

_inference_op = torch.ops.lenet_ext.network.default
_forward_op = torch.ops.lenet_ext.network_forward.default
_backward_op = torch.ops.lenet_ext.network_backward.default
train = torch.ops.lenet_ext.network_train.default
train_in_c = train._op  # what it calls, without a line of Python
# A step changes its parameters beneath autograd, which has nothing to record. What torch does between
# autograd and the kernel is still done: it gives tensors with a negative bit their values, for example.
_below_autograd = torch.library.Library("lenet_ext", "IMPL")
for _key in ("AutogradCPU", "AutogradCUDA"):
    _below_autograd.impl("network_train", torch.library.fallthrough_kernel, _key)

WORD_BYTES = 4  # to which the argmax of a stage is rounded up


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of all values inside of the engine."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@_fake.register("network")
def _fake_inference(
    input: Tensor, parameters: Sequence[Tensor], program: str, normalization: Tensor | None
) -> Tensor:
    return _fake_forward(input, parameters, program, normalization)[0]


@_fake.register("network_forward")
def _fake_forward(
    input: Tensor, parameters: Sequence[Tensor], program: str, normalization: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = input.dtype if input.dtype.is_floating_point else parameters[0].dtype
    batch, network = input.shape[0], Network.of(program)
    image = torch.empty((1, *input.shape[1:]), device="meta")
    values = network.values(image, [torch.empty(p.shape, device="meta") for p in parameters])
    shapes = [tuple(value.shape[1:]) for value in values]
    saved = argmax = 0
    for value, element_bytes in kept_values(program):
        saved += prod(shapes[value])
        argmax += -(-prod(shapes[value]) * element_bytes // WORD_BYTES) * WORD_BYTES
    return (
        input.new_empty((batch, *shapes[network.outputs[0]]), dtype=dtype),
        input.new_empty(batch * saved, dtype=_compute_dtype(dtype)),
        input.new_empty(batch * argmax, dtype=torch.uint8),
    )


@_fake.register("network_backward")
def _fake_backward(
    grad_output: Tensor,
    input: Tensor,
    parameters: Sequence[Tensor],
    saved: Tensor,
    argmax: Tensor,
    program: str,
    normalization: Tensor | None,
    input_grad: bool,
    parameter_grads: bool,
) -> list[Tensor]:
    grad_input = input.new_empty(input.shape if input_grad else 0, dtype=grad_output.dtype)
    return [grad_input, *(p.new_empty(p.shape) for p in parameters if parameter_grads)]


class NetworkFunction(Function):
    """The whole network as one node, with gradients for the input and every parameter."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, program: str, normalization: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        output, saved, argmax = _forward_op(input, parameters, program, normalization)
        ctx.save_for_backward(input, normalization, saved, argmax, *parameters)
        ctx.program = program
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, normalization, saved, argmax, *parameters = ctx.saved_tensors
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
            argmax,
            ctx.program,
            normalization,
            needs_input,
            any(needs_parameters),
        )
        wanted = [grad if needed else None for grad, needed in zip(grads, needs_parameters, strict=False)]
        wanted += [None] * (len(needs_parameters) - len(wanted))
        return grad_input if needs_input else None, None, None, *wanted


# torch.autograd.Function.apply would repeat in Python the choice that `run` makes.
_fast_apply = super(Function, NetworkFunction).apply


def run(program: str, input: Tensor, normalization: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    """The output of the network that `program` describes, through one autograd node.

    input: (N, C, H, W) or (N, features) of the dtype of the parameters, or uint8 with `normalization`, a
    float32 (2, C): scale and shift of each channel. Raises RuntimeError where shapes or dtypes do not fit.
    """
    if transformed():
        return layer_by_layer(program, input, normalization, parameters)
    if torch.is_grad_enabled() and (input.requires_grad or any(p.requires_grad for p in parameters)):
        if is_dynamo_compiling():
            return NetworkFunction.apply(input, program, normalization, *parameters)
        return _fast_apply(input, program, normalization, *parameters)
    return _inference_op(input, parameters, program, normalization)


def layer_by_layer(
    program: str, input: Tensor, normalization: Tensor | None, parameters: Sequence[Tensor]
) -> Tensor:
    """What `run` computes, by the functions of the layers; in float32 at least, like the engine."""
    network = Network.of(program)
    dtype = input.dtype if normalization is None else parameters[0].dtype
    if normalization is not None and input.dtype != torch.uint8:
        raise RuntimeError(
            f"{network.name}: input must be uint8, since it is to be normalized, got {input.dtype}"
        )
    if any(parameter.dtype != dtype for parameter in parameters):
        dtypes = ", ".join(str(parameter.dtype) for parameter in parameters)
        raise RuntimeError(
            f"{network.name}: all parameters must be of one dtype, that of the input, {dtype}; got {dtypes}"
        )
    shapes = [tuple(tensor.shape) for tensor in (input, *parameters)]
    known = all(type(size) is int for shape in shapes for size in shape)
    if known and not any(0 in shape for shape in shapes[1:]):  # which the engine alone refuses
        # Or the errors would be those of the layers' functions, which the user did not call.
        check_network(program, shapes[0], shapes[1:])
    compute = _compute_dtype(dtype)
    activation = input.to(compute)
    if normalization is not None:
        scale, shift = normalization.to(compute).reshape(2, -1, *[1] * (input.dim() - 2))
        activation = activation * scale + shift
    return network.apply(activation, [parameter.to(compute) for parameter in parameters]).to(dtype)


def _gradients_layer_by_layer(
    grad_output: Tensor,
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    program: str,
    normalization: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of those of `tensors`, input and parameters, that are needed."""
    with torch.enable_grad():
        # Views tell apart the places of a tensor that is used in several.
        input, *parameters = places = [tensor.view_as(tensor) for tensor in tensors]
        output = layer_by_layer(program, input, normalization, parameters)
    wanted = [place for place, need in zip(places, needed, strict=True) if need]
    grads = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=torch.is_grad_enabled()))
    return [next(grads) if need else None for need in needed]


def run_block(program: str, input: Tensor, *parameters: Tensor | None) -> Tensor:
    """A network as a public function; parameters that are None are left out."""
    tensors = [parameter for parameter in parameters if parameter is not None]
    if tensors[0].numel() == 0:  # which the engine refuses
        return layer_by_layer(program, input, None, tensors)
    return run(program, input, None, tensors)
