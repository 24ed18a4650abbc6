"""The layers with most of the arithmetic: convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer
from lenet_ext.ops._arguments import Padding, Pair
from lenet_ext.ops.conv2d import _conv2d
from lenet_ext.ops.linear import _linear

__all__ = ["Conv2d", "ConvTranspose2d", "Linear"]


def _weight_and_bias(parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    return parameters[0], parameters[1] if len(parameters) == 2 else None


def _as_planes(weight: Tensor) -> Tensor:
    """The weight of a 1-d convolution, (O, I, K), as that of a kernel of one row."""
    return weight.unsqueeze(2) if weight.dim() == 3 else weight


@dataclass(frozen=True)
class Conv2d(Layer):
    """(N, in_channels, H, W) to (N, out_channels, H', W'), padded with zeros: (top, bottom, left, right).

    A weight of 3 dimensions is a kernel of one row.
    """

    kind = "conv2d"

    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int

    def apply(self, *tensors: Tensor) -> Tensor:
        input, *parameters = tensors
        weight, bias = _weight_and_bias(tuple(parameters))
        return _conv2d(input, _as_planes(weight), bias, self.integers)


@dataclass(frozen=True)
class ConvTranspose2d(Layer):
    """(N, in_channels, H, W) to (N, out_channels, H', W'): the gradient of a conv2d by its input.

    The weight is (in_channels, out_channels / groups, KH, KW), or a kernel of one row without KH.
    """

    kind = "conv_transpose2d"

    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int

    def apply(self, *tensors: Tensor) -> Tensor:
        input, *parameters = tensors
        weight, bias = _weight_and_bias(tuple(parameters))
        return F.conv_transpose2d(
            *(input, _as_planes(weight), bias, self.stride, self.padding, self.output_padding),
            *(self.groups, self.dilation),
        )


@dataclass(frozen=True)
class Linear(Layer):
    """(N, ..., in_features) to (N, ..., out_features)."""

    kind = "linear"

    def apply(self, *tensors: Tensor) -> Tensor:
        input, *parameters = tensors
        weight, bias = _weight_and_bias(tuple(parameters))
        if input.dim() == 2:
            return _linear(input, weight, bias)
        rows = input.reshape(prod(input.shape[:-1]), input.shape[-1])
        output: Tensor = _linear(rows, weight, bias)
        return output.reshape(*input.shape[:-1], weight.shape[0])
