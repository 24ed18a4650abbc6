"""The layers that read several values, or all elements of a dimension; sums and products with parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer

__all__ = ["Add", "Concat", "Gain", "LogSoftmax", "Mul", "Shift", "Softmax"]


@dataclass(frozen=True)
class Add(Layer):
    """first + alpha * second, of the same sizes."""

    kind = "add"

    alpha: float

    def apply(self, *tensors: Tensor) -> Tensor:
        first, second = tensors
        return torch.add(first, second, alpha=self.alpha)


@dataclass(frozen=True)
class Mul(Layer):
    """first * second, of the same sizes."""

    kind = "mul"

    def apply(self, *tensors: Tensor) -> Tensor:
        first, second = tensors
        return first * second


@dataclass(frozen=True)
class Shift(Layer):
    """x + alpha * parameter, which broadcasts: it may have ones before and behind the dimensions it has."""

    kind = "shift"

    alpha: float

    def apply(self, *tensors: Tensor) -> Tensor:
        input, parameter = tensors
        return torch.add(input, parameter, alpha=self.alpha)


@dataclass(frozen=True)
class Gain(Layer):
    """x * parameter, as of Shift."""

    kind = "gain"

    def apply(self, *tensors: Tensor) -> Tensor:
        input, parameter = tensors
        return input * parameter


@dataclass(frozen=True)
class Concat(Layer):
    """Values one after the other along a dimension."""

    kind = "concat"

    dim: int

    def apply(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, self.dim + 1)


@dataclass(frozen=True)
class Softmax(Layer):
    """exp(x) over its sum along a dimension."""

    kind = "softmax"

    dim: int

    def apply(self, *tensors: Tensor) -> Tensor:
        return F.softmax(tensors[0], self.dim + 1)


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """The logarithm of a softmax."""

    kind = "log_softmax"

    dim: int

    def apply(self, *tensors: Tensor) -> Tensor:
        return F.log_softmax(tensors[0], self.dim + 1)
