"""Pools over windows of an image, and over whole images."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer
from lenet_ext.ops._arguments import Pair
from lenet_ext.ops.max_pool2d import _max_pool2d

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "MaxPool2d"]


@dataclass(frozen=True)
class MaxPool2d(Layer):
    """(N, C, H, W) to (N, C, H', W'), padded with -inf on both sides."""

    kind = "max_pool2d"

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool

    def apply(self, *tensors: Tensor) -> Tensor:
        output: Tensor = _max_pool2d(tensors[0], self.integers[:8], self.ceil_mode, False)[0]
        return output


@dataclass(frozen=True)
class AvgPool2d(Layer):
    """(N, C, H, W) to (N, C, H', W'); divisor: of each sum, 0 for the number of its pixels."""

    kind = "avg_pool2d"

    kernel_size: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool
    count_include_pad: bool
    divisor: int

    def apply(self, *tensors: Tensor) -> Tensor:
        return F.avg_pool2d(
            *(tensors[0], self.kernel_size, self.stride, self.padding),
            *(self.ceil_mode, self.count_include_pad, self.divisor or None),
        )


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Layer):
    """(N, C, H, W) to (N, C, *output_size)."""

    kind = "adaptive_avg_pool2d"

    output_size: Pair

    def apply(self, *tensors: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(tensors[0], self.output_size)


@dataclass(frozen=True)
class AdaptiveMaxPool2d(Layer):
    """(N, C, H, W) to (N, C, *output_size)."""

    kind = "adaptive_max_pool2d"

    output_size: Pair

    def apply(self, *tensors: Tensor) -> Tensor:
        output: Tensor = F.adaptive_max_pool2d(tensors[0], self.output_size)
        return output
