"""per_sample_gradients: the gradients of each image of a batch, of a fused network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from lenet_ext.engine.ensemble import FusedEnsemble
from lenet_ext.engine.fused import FusedNet
from lenet_ext.engine.losses import EngineLoss
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import draw_seeds
from lenet_ext.engine.reasons import against
from lenet_ext.engine.sample_operators import places_of, sample_gradients
from lenet_ext.ops._arguments import autocast_is_on
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["per_sample_gradients"]

NAME = "per_sample_gradients"


@serial_in_forked_child
def per_sample_gradients(
    fused: FusedNet,
    images: Tensor,
    targets: Tensor,
    loss: str | torch.nn.Module | Callable[..., Tensor] = "cross_entropy",
) -> dict[str, Tensor]:
    """The gradients of the loss of each image: {name: (N, *shape)}, in the dtype of the parameters.

    fused: made by `fuse`, on the CPU. images: (N, ...) as it takes them, N of any size, 0 too. targets, loss:
    as those of TrainStep. Each image is a batch of its own: the reduction "mean" is over what the loss has of
    this image, so that a weight of classes cancels where an image has one target; an image whose targets are
    all `ignore_index` has zeros. The names are those of `fused.named_parameters()`, in their order, as far as
    a gradient is required; a parameter without a part in the output has zeros. Dropout draws as in a call of
    the network.

    The same numbers as torch.func.vmap(torch.func.grad(...)), up to rounding, and bitwise the same for every
    number of threads; they have no graph.

    Raises TypeError or ValueError for an argument that does not fit; IndexError for a target that is no
    class; RuntimeError for batch norm in training mode, which mixes the images of a batch, naming the layer,
    for autocast, and for a parameter that is computed from others.
    """
    if not isinstance(fused, FusedNet):
        raise TypeError(
            f"{NAME}: fused must come from lenet_ext.fuse, got {type(fused).__name__}: "
            "call lenet_ext.fuse(model, example_input) first"
        )
    if isinstance(fused, FusedEnsemble):
        raise TypeError(
            f"{NAME}: fused is an ensemble, and gradients are those of one network: load member(k) into a "
            "model and call lenet_ext.fuse(model, example_input)"
        )
    for name, value in (("images", images), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if autocast_is_on(images):
        raise RuntimeError(f"{NAME}: autocast is on, and would have no effect")
    own = EngineLoss(loss, NAME)
    try:
        tensors = fused._checked_tensors(images)
        _check_parameters(fused, tensors)
        mode, normalization = fused._mode, fused._normalization
        line, loss_tensors = own.arguments(images, targets)
        named = {name: p for name, p in fused.named_parameters() if p.requires_grad}
        places = places_of(tensors, named.values())
        seeds = draw_seeds(1) if mode.is_random else None
        found = sample_gradients(
            *(images, targets, tensors, places, seeds, _program(mode.program, line), normalization),
            *loss_tensors,
        )
    except Exception as error:
        parameters, normalized = fused._named(), fused._normalization is not None
        like = {"images": images.new_empty(0, dtype=targets.dtype)}  # on their device
        reason = against(NAME, images, parameters, normalized) or against(NAME, targets, like, noun="targets")
        if reason is None:
            raise
        raise reason from error
    gradients = {id(t): found[place] for t, place in zip(tensors, places, strict=True) if place >= 0}
    return {
        name: gradients[id(p)] if id(p) in gradients else p.new_zeros((len(images), *p.shape))
        for name, p in named.items()
    }


def _check_parameters(fused: FusedNet, tensors: list[Tensor]) -> None:
    """Raises RuntimeError for one that is no Parameter of the network, whose gradient is not that of one."""
    buffers = set(map(id, fused.buffers()))
    for tensor, name in zip(tensors, fused._layout.tensors, strict=True):
        if not isinstance(tensor, torch.nn.Parameter) and id(tensor) not in buffers:
            raise RuntimeError(f"{NAME}: {name} is computed from others, whose gradients this does not give")


@lru_cache(maxsize=64)
def _program(program: str, loss_line: str) -> str:
    """What the engine does, as operators take it."""
    return replace(Network.of(program).first, name=NAME).program(loss_line)
