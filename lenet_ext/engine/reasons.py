"""Why the fused engine cannot take images or parameters: looked for once something has failed."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from lenet_ext.ops._arguments import autocast_is_on

__all__ = ["against", "against_parameters", "is_sharded"]

DISTRIBUTED = "a DTensor, and the fused engine takes whole tensors"


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as fully_shard and tensor parallelism make."""
    distributed = sys.modules.get("torch.distributed.tensor")  # not imported for the question alone
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def against_parameters(name: str, parameters: Mapping[str, Tensor]) -> RuntimeError | None:
    """What `name` has against them, by their own names; None if nothing."""
    first = next(iter(parameters), None)
    for path, parameter in parameters.items():
        if is_sharded(parameter):
            how = "call fully_shard on the fused network as a whole and train with your own loop"
            return RuntimeError(f"{name}: {path} is {DISTRIBUTED}: {how}, or use lenet_ext.convert")
        if parameter.is_meta:
            how = "call to_empty(device=...) on the model and load its weights"
            return RuntimeError(f"{name}: {path} is on the meta device, without data: {how}")
        if first is not None and parameter.dtype != parameters[first].dtype:
            kinds = f"{path} is {parameter.dtype}, but {first} is {parameters[first].dtype}"
            return RuntimeError(f"{name}: {kinds}: all parameters must be of one dtype")
    return None


def against(
    name: str,
    images: object,
    parameters: Mapping[str, Tensor],
    normalized: bool = False,
    noun: str = "images",
) -> TypeError | RuntimeError | None:
    """What `name` has against `images`, which it calls `noun`, or against the parameters; None if nothing.

    normalized: whether images must be bytes.
    """
    if not isinstance(images, Tensor):
        return TypeError(f"{name}: {noun} must be a torch.Tensor, got {type(images).__name__}")
    if is_sharded(images):
        return RuntimeError(f"{name}: {noun} must not be {DISTRIBUTED}: use lenet_ext.convert")
    reason = against_parameters(name, parameters)
    if reason is not None:
        return reason
    if images.layout != torch.strided or images.is_quantized:
        kind = "quantized" if images.is_quantized else images.layout
        return RuntimeError(f"{name}: {noun} must be a dense tensor, got {kind}")
    path, parameter = next(iter(parameters.items()), ("", images))
    if parameter.device != images.device:
        wanted = f"must be on {parameter.device} like {path}, got {images.device}"
        return RuntimeError(f"{name}: {noun} {wanted}")
    return None if autocast_is_on(images) else _against_dtype(name, images, parameter, path, normalized, noun)


def _against_dtype(
    name: str, images: Tensor, parameter: Tensor, path: str, normalized: bool, noun: str
) -> RuntimeError | None:
    if normalized and images.dtype != torch.uint8:
        return RuntimeError(
            f"{name}: {noun} must be uint8, since they are to be normalized, got {images.dtype}; for ones "
            "that are normalized already call lenet_ext.fuse without mean and std"
        )
    if normalized or images.dtype == parameter.dtype:
        return None
    if images.dtype == torch.uint8 and noun == "images":
        return RuntimeError(f"{name}: uint8 images need mean and std: give these to lenet_ext.fuse")
    return RuntimeError(f"{name}: {noun} must be {parameter.dtype} like {path}, got {images.dtype}")
