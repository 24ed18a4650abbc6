"""The fused engine's operators, their fake kernels, and the autograd Function.

The engine computes a whole network forward, and all its gradients. What else a network can do (gradients of
gradients, torch.func, forward-mode AD) goes through `layer_by_layer`, which is differentiable in every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import increment_version
from torch.compiler import is_dynamo_compiling

from lenet_ext._C import saved_sizes
from lenet_ext.engine.network import Network
from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import autocast_is_on
from lenet_ext.ops._autograd import batched_gradient, followed, transformed

_inference_op = torch.ops.lenet_ext.network.default
_forward_op = torch.ops.lenet_ext.network_forward.default
_backward_op = torch.ops.lenet_ext.network_backward.default
_statistics_op = torch.ops.lenet_ext.network_statistics.default
infer_ensemble = torch.ops.lenet_ext.ensemble.default
train_ensemble = torch.ops.lenet_ext.ensemble_train.default
train_ensemble_in_c = train_ensemble._op
train = torch.ops.lenet_ext.network_train.default
train_in_c = train._op  # what it calls, without a line of Python
# These change their arguments beneath autograd, which has nothing to record. What torch does between autograd
# and the kernel is still done: it gives tensors with a negative bit their values, for example.
_below_autograd = torch.library.Library("lenet_ext", "IMPL")
for _operator in ("network_train", "ensemble_train", "network_statistics"):
    for _key in ("AutogradCPU", "AutogradCUDA"):
        _below_autograd.impl(_operator, torch.library.fallthrough_kernel, _key)

# The largest seed, which is an int64.
LAST_SEED = 2**63 - 1


class Statistics(NamedTuple):
    """What a forward in training mode changes: running statistics, and how many batches these are of.

    parameters: of the network, as they are registered. updated: the numbers of those that change.
    """

    parameters: list[Tensor]
    updated: tuple[int, ...]
    counts: list[Tensor]


def draw_seeds(count: int) -> Tensor:
    """int64 (count,): for dropout, from torch's default generator."""
    return torch.randint(LAST_SEED, (count,))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of all values inside of the engine."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@_fake.register("network")
def _fake_inference(
    input: Tensor,
    parameters: Sequence[Tensor],
    program: str,
    normalization: Tensor | None,
    seed: Tensor | None,
) -> list[Tensor]:
    return _fake_forward(input, parameters, program, normalization, seed)[0]


@_fake.register("ensemble")
def _fake_ensemble(
    images: Tensor,
    parameters: Sequence[Tensor],
    members: int,
    own_images: bool,
    program: str,
    normalization: Tensor | None,
    seeds: Tensor | None,
) -> list[Tensor]:
    own = [parameter.new_empty(parameter.shape[1:]) for parameter in parameters]
    outputs = _fake_forward(images, own, program, normalization, seeds)[0]
    batch = images.shape[0] // members if own_images and members > 0 else images.shape[0]
    return [output.new_empty((members, batch, *output.shape[1:])) for output in outputs]


@_fake.register("network_forward")
def _fake_forward(
    input: Tensor,
    parameters: Sequence[Tensor],
    program: str,
    normalization: Tensor | None,
    seed: Tensor | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    dtype = input.dtype if input.dtype.is_floating_point else parameters[0].dtype
    batch, *image = input.shape
    sizes = [[int(size) for size in parameter.shape] for parameter in parameters]
    outputs, saved, statistics, argmax = saved_sizes(program, [1, *map(int, image)], sizes)
    return (
        [input.new_empty((batch, *shape), dtype=dtype) for shape in outputs],
        input.new_empty(batch * saved + statistics, dtype=compute_dtype(dtype)),
        input.new_empty(batch * argmax, dtype=torch.uint8),
    )


@_fake.register("network_backward")
def _fake_backward(
    grad_outputs: Sequence[Tensor],
    input: Tensor,
    parameters: Sequence[Tensor],
    saved: Tensor,
    argmax: Tensor,
    program: str,
    normalization: Tensor | None,
    seed: Tensor | None,
    input_grad: bool,
    parameter_grads: bool,
) -> list[Tensor]:
    grad_input = input.new_empty(input.shape if input_grad else 0, dtype=grad_outputs[0].dtype)
    return [grad_input, *(p.new_empty(p.shape) for p in parameters if parameter_grads)]


@_fake.register("network_statistics")
def _fake_statistics(
    saved: Tensor,
    input: Tensor,
    parameters: Sequence[Tensor],
    counts: Sequence[Tensor],
    program: str,
    normalization: Tensor | None,
) -> None:
    pass


@_fake.register("dropout_mask")
def _fake_mask(like: Tensor, seed: Tensor, layer: int, per_channel: bool, p: float) -> Tensor:
    if like.dim() < 2:
        raise RuntimeError("dropout_mask: like must have 2 dimensions at least")
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


class NetworkFunction(Function):
    """The whole network as one node, with gradients for the input and every parameter.

    Gives the outputs, and behind them what the network's running statistics are made of, if it changes some.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        program: str,
        normalization: Tensor | None,
        seed: Tensor | None,
        updated: tuple[int, ...],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        outputs, saved, argmax = _forward_op(input, parameters, program, normalization, seed)
        ctx.program, ctx.shapes, ctx.updated = program, (), {}
        if len(outputs) > 1:
            ctx.set_materialize_grads(False)
            ctx.shapes = [output.shape for output in outputs]
        if not updated:
            ctx.save_for_backward(input, normalization, seed, saved, argmax, *parameters)
            return tuple(outputs)
        # The next forward may change these before this one's backward, which does not depend on them.
        ctx.updated = {number: parameters[number] for number in updated}
        kept = (None if number in updated else tensor for number, tensor in enumerate(parameters))
        ctx.save_for_backward(input, normalization, seed, saved, argmax, *kept)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        return *outputs, saved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, normalization, seed, saved, argmax, *parameters = ctx.saved_tensors
        for number, tensor in ctx.updated.items():
            parameters[number] = tensor
        needs_input, _, _, _, _, *needs_parameters = ctx.needs_input_grad
        grad_outputs: list[Any] = _whole(grads, ctx.shapes) if ctx.shapes else [grads[0]]
        if grad_outputs[0] is None:  # all are zero, as where a second derivative is
            return None, None, None, None, None, *(None for _ in needs_parameters)
        if not is_dynamo_compiling() and (followed() or any(map(batched_gradient, grad_outputs))):
            needed = (needs_input, *needs_parameters)
            grad_input, *wanted = _gradients_layer_by_layer(
                grad_outputs, (input, *parameters), needed, ctx.program, normalization, seed
            )
            return grad_input, None, None, None, None, *wanted
        grad_input, *found = _backward_op(
            grad_outputs,
            input,
            parameters,
            saved,
            argmax,
            ctx.program,
            normalization,
            seed,
            needs_input,
            any(needs_parameters),
        )
        wanted = [grad if needed else None for grad, needed in zip(found, needs_parameters, strict=False)]
        wanted += [None] * (len(needs_parameters) - len(wanted))
        return grad_input if needs_input else None, None, None, None, None, *wanted


def _whole(grads: Sequence[Tensor | None], shapes: Sequence[torch.Size]) -> list[Any]:
    """The gradients of outputs of these shapes, with zeros in the place of None, if any is not None."""
    given = next((grad for grad in grads if grad is not None), None)
    if given is None:
        return [None]
    pairs = zip(grads, shapes, strict=False)
    return [given.new_zeros(shape) if grad is None else grad for grad, shape in pairs]


# torch.autograd.Function.apply would repeat in Python the choice that `run` makes.
_fast_apply = super(Function, NetworkFunction).apply


def run(
    program: str,
    input: Tensor,
    normalization: Tensor | None,
    parameters: Sequence[Tensor],
    seed: Tensor | None = None,
    statistics: Statistics | None = None,
) -> Sequence[Tensor]:
    """The outputs of the network that `program` describes, through one autograd node.

    input: (N, ...) of the dtype of the parameters, or uint8 with `normalization`, a float32 (2, C): scale and
    shift of each channel. seed: int64 (1,) for a network with dropout. statistics: of a network that changes
    some. Raises RuntimeError where shapes or dtypes do not fit.
    """
    if transformed():
        return layer_by_layer(program, input, normalization, parameters, seed, statistics)
    if torch.is_grad_enabled() and (input.requires_grad or any(p.requires_grad for p in parameters)):
        apply = NetworkFunction.apply if is_dynamo_compiling() else _fast_apply
        updated = () if statistics is None else statistics.updated
        results = apply(input, program, normalization, seed, updated, *parameters)
        if statistics is None:
            return results
        *outputs, saved = results
    elif statistics is None:
        return _inference_op(input, parameters, program, normalization, seed)
    else:
        outputs, saved, _ = _forward_op(input, parameters, program, normalization, seed)
    kept = statistics.parameters
    if input.dtype.is_floating_point and input.dtype != kept[0].dtype:  # autocast: the sizes alone matter
        input = input.new_empty(input.shape, dtype=kept[0].dtype)
    _statistics_op(saved, input, kept, statistics.counts, program, normalization)
    if not is_dynamo_compiling():  # an operator bound through the stable ABI leaves that to its caller
        changed = (statistics.parameters[number] for number in statistics.updated)
        increment_version([*changed, *statistics.counts])
    return outputs


def layer_by_layer(
    program: str,
    input: Tensor,
    normalization: Tensor | None,
    parameters: Sequence[Tensor],
    seed: Tensor | None = None,
    statistics: Statistics | None = None,
) -> list[Tensor]:
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
        saved_sizes(program, shapes[0], shapes[1:])
    compute = compute_dtype(dtype)
    activation = input.to(compute)
    if normalization is not None:
        scale, shift = normalization.to(compute).reshape(2, -1, *[1] * (input.dim() - 2))
        activation = activation * scale + shift
    computed = [parameter.to(compute) for parameter in parameters]
    if statistics is not None:
        for number in statistics.updated:  # which autocast may have rounded
            computed[number] = statistics.parameters[number].to(compute)
    counts = None if statistics is None else statistics.counts
    with torch.autocast(input.device.type, enabled=False) if autocast_is_on(input) else nullcontext():
        outputs = [output.to(dtype) for output in network.apply(activation, computed, seed, counts)]
    if statistics is not None:
        for number in statistics.updated:
            if statistics.parameters[number] is not computed[number]:  # which is another's copy
                statistics.parameters[number].copy_(computed[number])
    return outputs


def _gradients_layer_by_layer(
    grad_outputs: Sequence[Tensor],
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    program: str,
    normalization: Tensor | None,
    seed: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of those of `tensors`, input and parameters, that are needed."""
    with torch.enable_grad():
        # Views tell apart the places of a tensor that is used in several.
        input, *parameters = places = [tensor.view_as(tensor) for tensor in tensors]
        outputs = layer_by_layer(program, input, normalization, parameters, seed)
    wanted = [place for place, need in zip(places, needed, strict=True) if need]
    # An output may depend on nothing that has a gradient, and a parameter be of another mode.
    pairs = [pair for pair in zip(outputs, grad_outputs, strict=True) if pair[0].requires_grad]
    found = torch.autograd.grad(
        *([output for output, _ in pairs], wanted, [grad for _, grad in pairs]),
        create_graph=torch.is_grad_enabled(),
        allow_unused=True,
        materialize_grads=True,
    )
    grads = iter(found)
    return [next(grads) if need else None for need in needed]


def run_block(program: str, input: Tensor, *parameters: Tensor | None) -> Tensor:
    """A network of one output as a public function; parameters that are None are left out."""
    tensors = [parameter for parameter in parameters if parameter is not None]
    if tensors[0].numel() == 0:  # which the engine refuses
        return layer_by_layer(program, input, None, tensors)[0]
    return run(program, input, None, tensors)[0]
