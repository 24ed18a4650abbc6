"""The fused engine's operators about each image of a batch apart, and their fake kernels.

places: of each parameter the number of its gradient among those that are wanted, which are counted from 0 on
in the order of the parameters; -1 where none is wanted, the same number where two parameters are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lenet_ext.engine.operators import compute_dtype
from lenet_ext.ops import _fake

__all__ = ["clipped_sums", "firsts", "noisy_update", "places_of", "sample_gradients"]

# What torch.ops calls, without a line of Python.
sample_gradients = torch.ops.lenet_ext.network_sample_gradients.default._op
clipped_sums = torch.ops.lenet_ext.network_clipped_sums.default._op
noisy_update = torch.ops.lenet_ext.network_noisy_update.default._op
# Autograd has nothing to record of what these compute.
_below_autograd = torch.library.Library("lenet_ext", "IMPL")
for _operator in ("network_sample_gradients", "network_clipped_sums", "network_noisy_update"):
    for _key in ("AutogradCPU", "AutogradCUDA"):
        _below_autograd.impl(_operator, torch.library.fallthrough_kernel, _key)


def places_of(tensors: Sequence[Tensor], wanted: Iterable[Tensor]) -> list[int]:
    """The places of `tensors`, of which those among `wanted` have a gradient."""
    known = set(map(id, wanted))
    places: dict[int, int] = {}
    return [places.setdefault(id(t), len(places)) if id(t) in known else -1 for t in tensors]


def firsts(places: Sequence[int]) -> list[int]:
    """The number of the first parameter of each place."""
    return [places.index(place) for place in range(max(places, default=-1) + 1)]


@_fake.register("network_sample_gradients")
def _fake_gradients(
    images: Tensor, targets: Tensor, parameters: Sequence[Tensor], places: Sequence[int], *rest: object
) -> list[Tensor]:
    return [parameters[i].new_empty((len(images), *parameters[i].shape)) for i in firsts(places)]


@_fake.register("network_clipped_sums")
def _fake_sums(
    images: Tensor,
    targets: Tensor,
    order: Tensor | None,
    parameters: Sequence[Tensor],
    places: Sequence[int],
    *rest: object,
) -> tuple[Tensor, Tensor]:
    like = parameters[0] if parameters else images
    elements = sum(parameters[i].numel() for i in firsts(places))
    return like.new_empty(elements, dtype=compute_dtype(like.dtype)), like.new_empty(())


@_fake.register("network_noisy_update")
def _fake_update(*arguments: object) -> None:
    pass
