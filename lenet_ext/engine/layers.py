"""The layers of a chain, as plain descriptions: what `capture` finds and the fused engine runs.

A weight or a bias is the name of a parameter, as the model's `named_parameters` gives it. All pairs are
(height, width), all sizes in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lenet_ext.ops._arguments import Padding, Pair


@dataclass(frozen=True)
class Conv2d:
    """(N, in_channels, H, W) to (N, out_channels, H', W'), padded with zeros: (top, bottom, left, right)."""

    weight: str
    bias: str | None
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int


@dataclass(frozen=True)
class Linear:
    """(N, in_features) to (N, out_features)."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class ReLU:
    """max(input, 0), any shape."""


@dataclass(frozen=True)
class MaxPool2d:
    """(N, C, H, W) to (N, C, H', W'), padded with -inf on both sides."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


@dataclass(frozen=True)
class Flatten:
    """(N, C, H, W), or any other shape, to (N, C * H * W)."""


Layer: TypeAlias = Conv2d | Linear | ReLU | MaxPool2d | Flatten
