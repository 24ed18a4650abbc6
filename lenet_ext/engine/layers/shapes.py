"""The layers that move values and compute nothing: dimensions count from the first behind the batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer, flattened

__all__ = ["Flatten", "Pad", "Permute", "Reshape", "Slice"]


@dataclass(frozen=True)
class Flatten(Layer):
    """(N, ...) to (N, elements)."""

    kind = "flatten"

    def apply(self, *tensors: Tensor) -> Tensor:
        return flattened(tensors[0])


@dataclass(frozen=True)
class Reshape(Layer):
    """(N, ...) to (N, *sizes), one of which may be -1."""

    kind = "reshape"

    sizes: tuple[int, ...]

    def apply(self, *tensors: Tensor) -> Tensor:
        (input,) = tensors
        # Not left to torch, which cannot know it for an empty batch.
        rest = prod(input.shape[1:]) // -prod(self.sizes) if -1 in self.sizes else 0
        return input.reshape(input.shape[0], *(rest if size == -1 else size for size in self.sizes))


@dataclass(frozen=True)
class Permute(Layer):
    """Puts dimension dims[i] at place i."""

    kind = "permute"

    dims: tuple[int, ...]

    def apply(self, *tensors: Tensor) -> Tensor:
        return tensors[0].permute(0, *(dim + 1 for dim in self.dims))


@dataclass(frozen=True)
class Pad(Layer):
    """Adds elements of `value` at the begin and the end of each dimension; cuts some off where negative."""

    kind = "pad"

    edges: tuple[int, ...]  # begin and end of dimension 0, of dimension 1, ...
    value: float

    def apply(self, *tensors: Tensor) -> Tensor:
        pairs = zip(self.edges[-2::-2], self.edges[::-2], strict=True)
        return F.pad(tensors[0], [size for pair in pairs for size in pair], value=self.value)


@dataclass(frozen=True)
class Slice(Layer):
    """Elements start, start + step, ... of a dimension, before `stop`."""

    kind = "slice"

    dim: int
    start: int
    stop: int
    step: int

    def apply(self, *tensors: Tensor) -> Tensor:
        whole = (slice(None),) * (self.dim + 1)
        return tensors[0][(*whole, slice(self.start, self.stop, self.step))]
