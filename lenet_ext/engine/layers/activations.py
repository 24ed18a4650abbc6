"""Functions of each element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer
from lenet_ext.ops.relu import _relu

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ACTIVATIONS", "Activation", "PReLU", "scale"]


class ActivationKind(NamedTuple):
    """What an activation computes, and the names of its reals: those of torch's operator."""

    function: Callable[..., Tensor]
    reals: tuple[str, ...] = ()


def _elu(input: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    output: Tensor = torch.ops.aten.elu(input, alpha, scale, input_scale)
    return output


def _scale(input: Tensor, factor: float, shift: float) -> Tensor:
    return input * factor + shift


# By the names of csrc/activation.h.
ACTIVATIONS = {
    "relu": ActivationKind(_relu),
    "leaky_relu": ActivationKind(F.leaky_relu, ("negative_slope",)),
    "elu": ActivationKind(_elu, ("alpha", "scale", "input_scale")),
    "gelu": ActivationKind(F.gelu),
    "gelu_tanh": ActivationKind(lambda input: F.gelu(input, approximate="tanh")),
    "silu": ActivationKind(F.silu),
    "hardswish": ActivationKind(F.hardswish),
    "hardtanh": ActivationKind(F.hardtanh, ("min_val", "max_val")),
    "sigmoid": ActivationKind(torch.sigmoid),
    "tanh": ActivationKind(torch.tanh),
    "softplus": ActivationKind(F.softplus, ("beta", "threshold")),
    "hardsigmoid": ActivationKind(F.hardsigmoid),
    "scale": ActivationKind(_scale, ("factor", "shift")),
    "exp": ActivationKind(torch.exp),
    "abs": ActivationKind(torch.abs),
}


@dataclass(frozen=True)
class Activation(Layer):
    """One of ACTIVATIONS, with its reals."""

    is_pointwise = True

    kind: str  # type: ignore[misc]
    arguments: tuple[float, ...] = ()

    @property
    def integers(self) -> tuple[int, ...]:
        return ()

    @property
    def reals(self) -> tuple[float, ...]:
        return self.arguments

    @classmethod
    def of(cls, integers: Sequence[int], reals: Sequence[float] = (), kind: str = "relu") -> Self:
        return cls(kind, tuple(reals))

    def apply(self, *tensors: Tensor) -> Tensor:
        return ACTIVATIONS[self.kind].function(tensors[0], *self.arguments)


def scale(factor: float, shift: float) -> Activation:
    """factor * x + shift."""
    return Activation("scale", (factor, shift))


@dataclass(frozen=True)
class PReLU(Layer):
    """Multiplies what is negative by the weight, of one element or one for each channel, dimension 0."""

    kind = "prelu"
    is_pointwise = True

    def apply(self, *tensors: Tensor) -> Tensor:
        input, weight = tensors
        return F.prelu(input, weight)


def numbers_of(kind: str, arguments: dict[str, Any]) -> tuple[float, ...]:
    """The reals of an activation from the arguments of torch's operator."""
    return tuple(float(arguments[name]) for name in ACTIVATIONS[kind].reals)
