"""Normalization over the batch and over each image, and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_ext.engine.layers.base import Layer

__all__ = ["BatchNorm", "Dropout", "GroupNorm", "LayerNorm"]


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalizes each channel, dimension 0; parameters: [weight, bias], [running_mean, running_var].

    uses_batch_statistics: as in training mode, else it uses the running ones. affine, tracked: whether it has
    the former, the latter. momentum: NaN for a cumulative average.
    """

    kind = "batch_norm"
    is_pointwise = True

    uses_batch_statistics: bool
    affine: bool
    tracked: bool
    eps: float
    momentum: float

    @property
    def updates(self) -> bool:
        """Whether a forward changes running statistics."""
        return self.uses_batch_statistics and self.tracked

    def apply(self, *tensors: Tensor) -> Tensor:
        """The running statistics stay as they are."""
        input, *parameters = tensors
        weight, bias = parameters[:2] if self.affine else (None, None)
        if self.uses_batch_statistics:
            return F.batch_norm(input, None, None, weight, bias, True, 0.0, self.eps)
        mean, variance = parameters[-2:]
        return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, self.eps)

    def apply_and_update(self, count: Tensor | None, *tensors: Tensor) -> Tensor:
        """The same, and brings the running statistics up to date: those among `tensors` and `count`."""
        input, *parameters = tensors
        weight, bias = parameters[:2] if self.affine else (None, None)
        mean, variance = parameters[-2:]
        momentum = self.momentum
        if count is not None:
            count.add_(1)
            if momentum != momentum:
                momentum = 1.0 / float(count)
        return F.batch_norm(input, mean, variance, weight, bias, True, momentum, self.eps)


def _weight_and_bias(parameters: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    weight, bias, *_ = (*parameters, None, None)
    return weight, bias


@dataclass(frozen=True)
class GroupNorm(Layer):
    """Normalizes groups of channels, dimension 0, of each image; parameters of channels: [weight, [bias]]."""

    kind = "group_norm"
    is_pointwise = True

    groups: int
    eps: float

    def apply(self, *tensors: Tensor) -> Tensor:
        input, *parameters = tensors
        weight, bias = _weight_and_bias(parameters)
        return torch.group_norm(input, self.groups, weight, bias, self.eps)


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Normalizes the last `dims` dimensions of each image; parameters of their sizes: [weight, [bias]]."""

    kind = "layer_norm"

    dims: int
    eps: float

    def apply(self, *tensors: Tensor) -> Tensor:
        input, *parameters = tensors
        weight, bias = _weight_and_bias(parameters)
        return F.layer_norm(input, input.shape[-self.dims :], weight, bias, self.eps)


@dataclass(frozen=True)
class Dropout(Layer):
    """Zeroes elements, or whole channels (dimension 0), with probability p, and scales the others."""

    kind = "dropout"
    is_pointwise = True

    per_channel: bool
    p: float

    def mask(self, like: Tensor, seed: Tensor, number: int) -> Tensor:
        """What the engine multiplies a value like `like` by, for layer `number` of its network."""
        # Without what torch.func has wrapped `like` in: the mask is that of these sizes.
        plain = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        mask: Tensor = torch.ops.lenet_ext.dropout_mask(plain, seed, number, self.per_channel, self.p)
        return mask

    def apply(self, *tensors: Tensor) -> Tensor:
        """For a value and its mask."""
        input, mask = tensors
        return input * mask
