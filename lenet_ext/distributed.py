"""Our layers on DTensors: `import lenet_ext.distributed` tells torch how their operators may be sharded.

Tensor parallelism (torch.distributed.tensor.parallel) and distributed tensors of any kind then go through
conv2d, max_pool2d, linear and relu, forward and backward, as through torch's layers: batches, channels and
features may be split. The fused engine takes whole tensors only.

Registered with torch.distributed.tensor.experimental.register_sharding; not part of `import lenet_ext`, which
would import torch.distributed.tensor as well. Raises ImportError where torch was built without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

__all__: list[str] = []

# Placements of the outputs, and those of the tensors among the inputs that lead to them.
Way = tuple[Sequence[Any], Sequence[Any]]

_operators = torch.ops.lenet_ext
R, P = Replicate(), Partial()  # everywhere the same; a sum over all


def _register(operator: Any, tensors: int) -> Callable[[Callable[..., Iterable[Way]]], None]:
    """Takes the ways besides that without sharding; `tensors` come first among the arguments."""

    def decorate(ways: Callable[..., Iterable[Way]]) -> None:
        def sharding(*args: Any) -> list[tuple[list[Any], list[Any]]]:
            outputs = len(operator._schema.returns)
            found = []
            for output, inputs in (([R] * outputs, [R] * tensors), *ways(*args)):
                # Of a bias that is None there is nothing to place.
                placed = [None if tensor is None else way for tensor, way in zip(args, inputs, strict=False)]
                found.append(([*output], [*placed, *[None] * (len(args) - tensors)]))
            return found

        register_sharding(operator)(sharding)

    return decorate


@_register(_operators.relu.default, tensors=1)
def _relu(input: Any) -> Iterable[Way]:
    return (([Shard(k)], [Shard(k)]) for k in range(input.ndim))


@_register(_operators.relu_.default, tensors=1)
def _relu_inplace(input: Any) -> Iterable[Way]:
    return (([], [Shard(k)]) for k in range(input.ndim))


@_register(_operators.relu_grad.default, tensors=2)
def _relu_grad(grad_output: Any, output: Any) -> Iterable[Way]:
    return (([Shard(k)], [Shard(k)] * 2) for k in range(output.ndim))


@_register(_operators.max_pool2d.default, tensors=1)
def _max_pool2d(input: Any, *arguments: Any) -> Iterable[Way]:
    """Images and channels; argmax is empty where it is not asked for."""
    return (([Shard(k), Shard(k) if arguments[-1] else R], [Shard(k)]) for k in (0, 1))


@_register(_operators.max_pool2d_indices.default, tensors=1)
def _max_pool2d_indices(argmax: Any, *sizes: Any) -> Iterable[Way]:
    return (([Shard(k)], [Shard(k)]) for k in (0, 1))


@_register(_operators.max_pool2d_input_grad.default, tensors=2)
def _max_pool2d_input_grad(grad_output: Any, argmax: Any, *sizes: Any) -> Iterable[Way]:
    return (([Shard(k)], [Shard(k)] * 2) for k in (0, 1))


# conv2d and linear are products: an axis may be split that the input and the output have in common (of
# images), the weight and the output (outputs), or the input and the weight (inputs). A split names the
# placements of input, weight and output; None for the one of the three that has no such axis.
Split = tuple[Any, Any, Any]


def _conv2d_splits(groups: int) -> Iterable[Split]:
    yield Shard(0), None, Shard(0)
    if groups == 1:
        yield None, Shard(0), Shard(1)
        yield Shard(1), Shard(1), None


def _linear_splits(axes: int) -> Iterable[Split]:
    """Of input and output with as many axes."""
    yield from ((Shard(k), None, Shard(k)) for k in range(axes - 1))
    yield None, Shard(0), Shard(axes - 1)
    yield Shard(axes - 1), Shard(1), None


def _whole(placement: Any) -> Any:
    return R if placement is None else placement


def _summed(placement: Any) -> Any:
    return P if placement is None else placement


def _forward(splits: Iterable[Split]) -> Iterable[Way]:
    for input, weight, output in splits:
        bias = P if output is None else _whole(weight)  # a part of a sum where the output is one
        yield [_summed(output)], [_whole(input), _whole(weight), bias]


def _input_grad(splits: Iterable[Split]) -> Iterable[Way]:
    for input, weight, output in splits:
        yield [_summed(input)], [_whole(output), _whole(weight)]


def _weight_grad(splits: Iterable[Split]) -> Iterable[Way]:
    for input, weight, output in splits:
        bias = R if output is None else _summed(weight)
        yield [_summed(weight), bias], [_whole(output), _whole(input)]


def _grads(splits: Iterable[Split]) -> Iterable[Way]:
    for input, weight, output in splits:
        bias = R if output is None else _summed(weight)
        inputs = [_whole(output), _whole(input), _whole(weight)]
        yield [_summed(input), _summed(weight), bias], inputs


@_register(_operators.conv2d.default, tensors=3)
def _conv2d(input: Any, weight: Any, bias: Any, *geometry: Any) -> Iterable[Way]:
    return _forward(_conv2d_splits(geometry[-1]))


@_register(_operators.conv2d_input_grad.default, tensors=2)
def _conv2d_input_grad(grad_output: Any, weight: Any, *geometry: Any) -> Iterable[Way]:
    return _input_grad(_conv2d_splits(geometry[-1]))


@_register(_operators.conv2d_weight_grad.default, tensors=2)
def _conv2d_weight_grad(grad_output: Any, input: Any, *arguments: Any) -> Iterable[Way]:
    return _weight_grad(_conv2d_splits(arguments[-2]))


@_register(_operators.conv2d_grads.default, tensors=3)
def _conv2d_grads(grad_output: Any, input: Any, weight: Any, *arguments: Any) -> Iterable[Way]:
    return _grads(_conv2d_splits(arguments[-2]))


# A stack of weights, as torch.vmap makes it, is not split.


@_register(_operators.linear.default, tensors=3)
def _linear(input: Any, weight: Any, bias: Any) -> Iterable[Way]:
    return _forward(_linear_splits(input.ndim)) if weight.ndim == 2 else ()


@_register(_operators.linear_input_grad.default, tensors=2)
def _linear_input_grad(grad_output: Any, weight: Any) -> Iterable[Way]:
    return _input_grad(_linear_splits(grad_output.ndim)) if weight.ndim == 2 else ()


@_register(_operators.linear_weight_grad.default, tensors=2)
def _linear_weight_grad(grad_output: Any, input: Any, bias: int, stacked: int = 0) -> Iterable[Way]:
    return () if stacked else _weight_grad(_linear_splits(input.ndim))


@_register(_operators.linear_grads.default, tensors=3)
def _linear_grads(grad_output: Any, input: Any, weight: Any, bias: int) -> Iterable[Way]:
    return _grads(_linear_splits(input.ndim)) if weight.ndim == 2 else ()
