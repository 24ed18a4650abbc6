"""The layers that a network may consist of, each described once, by families.

A layer has the arguments that decide what it computes, its parameters apart. It can be applied by
differentiable functions, and has the numbers by which the engine knows it (csrc/engine/description.h). All
pairs are (height, width), all sizes in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from lenet_ext.engine.layers.activations import ACTIVATIONS, Activation, PReLU, scale
from lenet_ext.engine.layers.base import Layer, flattened
from lenet_ext.engine.layers.combine import Add, Concat, Gain, LogSoftmax, Mul, Shift, Softmax
from lenet_ext.engine.layers.core import Conv2d, ConvTranspose2d, Linear
from lenet_ext.engine.layers.norm import BatchNorm, Dropout, GroupNorm, LayerNorm
from lenet_ext.engine.layers.pools import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from lenet_ext.engine.layers.shapes import Flatten, Pad, Permute, Reshape, Slice

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "Gain",
    "GroupNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Mul",
    "PReLU",
    "Pad",
    "Permute",
    "Reshape",
    "Shift",
    "Slice",
    "Softmax",
    "flattened",
    "layer_of",
    "scale",
]

_CLASSES: dict[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        *(Conv2d, ConvTranspose2d, Linear, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d),
        *(BatchNorm, GroupNorm, LayerNorm, Dropout, PReLU, Softmax, LogSoftmax),
        *(Flatten, Reshape, Permute, Pad, Slice, Add, Mul, Shift, Gain, Concat),
    )
}


def layer_of(kind: str, integers: Sequence[int], reals: Sequence[float]) -> Layer:
    """The layer that the engine knows by these; ValueError where there is none."""
    if kind in ACTIVATIONS:
        return Activation.of(integers, reals, kind)
    if kind not in _CLASSES:
        raise ValueError(f"unknown kind of layer: {kind}")
    return _CLASSES[kind].of(integers, reals)


def kinds() -> list[str]:
    """What the engine calls its layers."""
    return [*_CLASSES, *ACTIVATIONS]
