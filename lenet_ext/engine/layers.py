"""The layers that a network may consist of, each described once.

A layer has the arguments that decide what it computes, its parameters apart. It can be applied by
differentiable functions, it has the numbers by which the engine knows it (csrc/engine/description.h), and it
is read from a call in a graph of torch's. All pairs are (height, width), all sizes in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor

from lenet_ext.ops._arguments import Padding, Pair
from lenet_ext.ops.conv2d import _conv2d
from lenet_ext.ops.linear import _linear
from lenet_ext.ops.max_pool2d import _max_pool2d
from lenet_ext.ops.relu import _relu

if TYPE_CHECKING:
    from typing_extensions import Self

    from lenet_ext.engine.capture.call import Call

__all__ = ["ACTIVATIONS", "Activation", "Conv2d", "Flatten", "Layer", "Linear", "MaxPool2d", "layer_of"]


class Layer(ABC):
    """What all layers have."""

    # What the engine calls it, and the operators in graphs that are such a layer.
    kind: ClassVar[str]
    operators: ClassVar[tuple[str, ...]] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The arguments as the engine takes them."""
        return ()

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Self:
        """The layer with these `numbers`."""
        return cls()

    @classmethod
    @abstractmethod
    def read(cls, call: Call) -> Self:
        """The layer that `call` is; refuses what it cannot be."""

    @abstractmethod
    def apply(self, input: Tensor, /, *parameters: Tensor) -> Tensor:
        """The layer's output, differentiable in every way."""


@dataclass(frozen=True)
class Conv2d(Layer):
    """(N, in_channels, H, W) to (N, out_channels, H', W'), padded with zeros: (top, bottom, left, right)."""

    kind = "conv2d"
    operators = ("aten.conv2d", "lenet_ext.conv2d")

    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int

    @property
    def numbers(self) -> tuple[int, ...]:
        return *self.stride, *self.padding, *self.dilation, self.groups

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Conv2d:
        stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = numbers
        return cls((stride_h, stride_w), (top, bottom, left, right), (dilation_h, dilation_w), groups)

    @classmethod
    def read(cls, call: Call) -> Conv2d:
        call.need_dims(4, "(N, in_channels, H, W)")
        weight = call.take_weight_and_bias(4)
        dilation = call.pair("dilation")
        (groups,) = call.integers("groups")
        return cls(call.pair("stride"), _edges(call, weight, dilation), dilation, groups)

    def apply(self, input: Tensor, /, *parameters: Tensor) -> Tensor:
        weight, bias = parameters if len(parameters) == 2 else (*parameters, None)
        return _conv2d(input, weight, bias, self.numbers)


def _edges(call: Call, weight: Tensor, dilation: Pair) -> Padding:
    """(top, bottom, left, right) from "same", "valid", two ints (torch) or four ints (lenet_ext)."""
    padding = call.arguments["padding"]
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        sizes = zip(dilation, weight.shape[2:], strict=True)
        vertical, horizontal = (step * (size - 1) for step, size in sizes)
        return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
    edges = call.integers("padding")
    if len(edges) == 4:
        return edges[0], edges[1], edges[2], edges[3]
    return edges[0], edges[0], edges[-1], edges[-1]


@dataclass(frozen=True)
class Linear(Layer):
    """(N, in_features) to (N, out_features)."""

    kind = "linear"
    operators = ("aten.linear", "lenet_ext.linear")

    @classmethod
    def read(cls, call: Call) -> Linear:
        call.need_dims(2, "(N, in_features): flatten it first")
        call.take_weight_and_bias(2)
        return cls()

    def apply(self, input: Tensor, /, *parameters: Tensor) -> Tensor:
        weight, bias = parameters if len(parameters) == 2 else (*parameters, None)
        return _linear(flattened(input), weight, bias)


@dataclass(frozen=True)
class MaxPool2d(Layer):
    """(N, C, H, W) to (N, C, H', W'), padded with -inf on both sides."""

    kind = "max_pool2d"
    operators = ("aten.max_pool2d", "lenet_ext.max_pool2d")

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        return *self.kernel_size, *self.stride, *self.padding, *self.dilation, int(self.ceil_mode)

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> MaxPool2d:
        size, stride, padding, dilation = zip(numbers[0:8:2], numbers[1:8:2], strict=True)
        return cls(size, stride, padding, dilation, bool(numbers[8]))

    @classmethod
    def read(cls, call: Call) -> MaxPool2d:
        call.need_dims(4, "(N, C, H, W)")
        kernel_size = call.pair("kernel_size")
        stride = call.pair("stride") if call.arguments["stride"] else kernel_size
        ceil_mode: bool = call.arguments["ceil_mode"]
        return cls(kernel_size, stride, call.pair("padding"), call.pair("dilation"), ceil_mode)

    def apply(self, input: Tensor, /, *_: Tensor) -> Tensor:
        output: Tensor = _max_pool2d(input, self.numbers[:8], self.ceil_mode, False)[0]
        return output


class ActivationKind(NamedTuple):
    """What an activation computes; the operators of torch that do so, "_" at their ends where in place."""

    function: Callable[[Tensor], Tensor]
    operators: tuple[str, ...]


# By the names of csrc/activation.h.
ACTIVATIONS = {
    "relu": ActivationKind(_relu, ("aten.relu", "aten.relu_", "lenet_ext.relu", "lenet_ext.relu_")),
}


@dataclass(frozen=True)
class Activation(Layer):
    """A function of each element: any shape."""

    operators = tuple(operator for one in ACTIVATIONS.values() for operator in one.operators)

    kind: str  # type: ignore[misc]  # one of ACTIVATIONS

    @classmethod
    def read(cls, call: Call) -> Activation:
        if call.is_in_place and call.is_first:
            call.refuse("overwrites the network's input")
        return cls(next(kind for kind, one in ACTIVATIONS.items() if call.operator in one.operators))

    def apply(self, input: Tensor, /, *_: Tensor) -> Tensor:
        return ACTIVATIONS[self.kind].function(input)


@dataclass(frozen=True)
class Flatten(Layer):
    """(N, C, H, W), or any other shape, to (N, C * H * W)."""

    kind = "flatten"

    @classmethod
    def read(cls, call: Call) -> Flatten:
        return cls()

    def apply(self, input: Tensor, /, *_: Tensor) -> Tensor:
        return flattened(input)


def flattened(activation: Tensor) -> Tensor:
    """(N, ...) as (N, elements). reshape: see max_pool2d.py."""
    return activation.reshape(activation.shape[0], prod(activation.shape[1:]))


_CLASSES: dict[str, type[Layer]] = {layer.kind: layer for layer in (Conv2d, Linear, MaxPool2d, Flatten)}


def layer_of(kind: str, numbers: Sequence[int]) -> Layer:
    """The layer that the engine knows by these; ValueError where there is none."""
    if kind in ACTIVATIONS:
        return Activation(kind)
    if kind not in _CLASSES:
        raise ValueError(f"unknown kind of layer: {kind}")
    return _CLASSES[kind].of_numbers(numbers)


def kinds() -> list[str]:
    """What the engine calls its layers, and users their operators."""
    return [*_CLASSES, *ACTIVATIONS]


def readers() -> Iterator[tuple[str, type[Layer]]]:
    """The operators of graphs that are layers."""
    classes: tuple[type[Layer], ...] = (*_CLASSES.values(), Activation)
    for layer in classes:
        for operator in layer.operators:
            yield operator, layer
