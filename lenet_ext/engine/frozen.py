"""FrozenNet: a network for inference alone, called with little between the caller and the kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lenet_ext._C import FrozenNetwork
from lenet_ext.engine.capture import ImageSizes, Leaf
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import run
from lenet_ext.engine.reasons import against, against_parameters
from lenet_ext.engine.runnable import Runnable, collected
from lenet_ext.ops._arguments import autocast_is_on

__all__ = ["NAME", "FrozenNet", "Parts", "frozen", "parts_of"]

NAME = "FrozenNet"
COMPUTED_IN_FLOAT32 = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Parts:
    """What a frozen network consists of.

    tensors: parameters and buffers by their names, in the order of their numbers, all of `dtype`. sizes: of
    the images that it takes. structure: what a call returns, with a Leaf for each output.
    normalization: float32 (2, C), of uint8 images; None for images of `dtype`.
    """

    network: Network
    sizes: ImageSizes
    structure: Any
    dtype: torch.dtype
    tensors: Mapping[str, Tensor]
    normalization: Tensor | None


class FrozenNet(FrozenNetwork):
    """A network for inference alone, made by `FusedNet.freeze`: a callable, and no torch.nn.Module.

    It has parameters of its own: later changes of the model are not seen. Batch norms are part of the layers
    before them where these are convolutions or linear layers, dropout is gone; weights are packed once for
    each size of batch, of which it keeps up to 32. It computes bit for bit what `FusedNet` does in eval mode,
    in the dtype in which it was frozen, and gives no gradients.

    Takes images (N, ...) as `FusedNet` does: a tensor on the CPU, and returns what the model returns; or a
    numpy.ndarray of the same dtype, which may be read-only, and returns arrays then. Images that are dense
    are read where they are. Any number of threads may call it at once; the interpreter's lock is released
    while it computes. `pickle`, `torch.save` and `copy.deepcopy` take it; `save` and `lenet_ext.load_frozen`
    store it without code.

    Raises TypeError for what is no tensor or array; RuntimeError for shapes, dtypes or devices that do not
    fit, for images that require a gradient in grad mode, and inside of torch.autocast, which would have no
    effect.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._program = parts, parts.network.program()
        compute = torch.float32 if parts.dtype in COMPUTED_IN_FLOAT32 else parts.dtype
        # Which the compiled part refers to.
        self._computed = [tensor.to(compute) for tensor in parts.tensors.values()]
        dtype = str(parts.dtype).removeprefix("torch.")
        self._is_single = isinstance(parts.structure, Leaf)
        super().__init__(self._program, dtype, self._computed, parts.normalization, self._is_single)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to a safetensors file, which `lenet_ext.load_frozen` reads.

        Raises RuntimeError where it returns a collection of a class other than tuple, list, dict and
        OrderedDict; ImportError without safetensors, which the extra [cli] installs.
        """
        from lenet_ext.engine.frozen_file import save_frozen

        save_frozen(self._parts, path)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenNet, (self._parts,)

    def __repr__(self) -> str:
        parts = self._parts
        images = "uint8" if parts.normalization is not None else str(parts.dtype).removeprefix("torch.")
        return f"FrozenNet({len(parts.tensors)} parameters and buffers, {images} images {parts.sizes.text()})"

    # For the compiled part: what is rare.

    def _admit(self, shape: tuple[int, ...]) -> None:
        self._parts.sizes.check(NAME, shape)

    def _collected(self, outputs: Sequence[Any]) -> Any:
        return outputs[0] if self._is_single else collected(self._parts.structure, outputs)

    def _unusual(self, images: Any) -> Any:
        """The call by operators of torch, or the error that says why not."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(images) is numpy.ndarray:  # where torch gives no access to its tensors
            tensor = torch.from_numpy(images.copy())
            return self._collected([output.numpy() for output in self._outputs(tensor)])
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise TypeError(f"{NAME}: images must be a torch.Tensor or a numpy.ndarray, got {kind}")
        return self._collected(self._outputs(images))

    def _outputs(self, images: Tensor) -> Sequence[Tensor]:
        parts = self._parts
        if autocast_is_on(images):
            raise RuntimeError(
                f"{NAME}: torch.autocast would have no effect on a frozen network: freeze it in that dtype, "
                "or call it in torch.autocast(..., enabled=False)"
            )
        reason = against(NAME, images, parts.tensors, parts.normalization is not None)
        if reason is not None:
            raise reason
        if images.device.type not in ("cpu", "meta"):
            raise RuntimeError(f"{NAME}: images must be on the CPU, got {images.device}")
        if parts.normalization is None and images.dtype != parts.dtype:  # without parameters
            raise RuntimeError(f"{NAME}: images must be {parts.dtype}, got {images.dtype}")
        if torch.is_grad_enabled() and images.requires_grad:
            raise RuntimeError(
                f"{NAME}: images require a gradient, which a frozen network does not give: call it in "
                "torch.inference_mode or torch.no_grad, or take the fused network"
            )
        self._admit(tuple(images.shape))
        with torch.no_grad():
            return run(self._program, images, parts.normalization, list(parts.tensors.values()))

    def _refuse_array(self, images: Any) -> None:
        dtype = str(self._parts.dtype).removeprefix("torch.")
        if dtype == "bfloat16":
            raise RuntimeError(f"{NAME}: numpy has no bfloat16: call the network with a torch.Tensor")
        wanted = dtype if self._parts.normalization is None else "uint8"
        if images.dtype != wanted:
            raise RuntimeError(
                f"{NAME}: images must be {wanted} in the machine's order of bytes, got {images.dtype.str}"
            )
        raise RuntimeError(f"{NAME}: images must be (N, ...), got {tuple(images.shape)}")


def parts_of(
    mode: Runnable, names: Sequence[str], tensors: Sequence[Tensor], normalization: Tensor | None
) -> Parts:
    """The network of `mode`, with `tensors` as they are, whose names these are. See `FusedNet.freeze`."""
    named = dict(zip(names, tensors, strict=True))
    reason = against_parameters("freeze", named)
    if reason is not None:
        raise reason
    if mode.is_random or mode.updated:
        what = "draws random numbers" if mode.is_random else "changes running statistics"
        raise RuntimeError(f"freeze: the network {what} in eval mode too, so it cannot be frozen")
    dtype = tensors[0].dtype if tensors else torch.get_default_dtype()
    return Parts(replace(mode.network, name=NAME), mode.sizes, mode.structure, dtype, named, normalization)


def frozen(parts: Parts) -> FrozenNet:
    """The network of `parts`, with copies of its tensors, which must be on the CPU."""
    for name, tensor in parts.tensors.items():
        if tensor.device.type != "cpu":
            raise RuntimeError(
                f"freeze: {name} is on {tensor.device}, and frozen networks run on the CPU: move the fused "
                "network there first"
            )
    with torch.inference_mode(False), torch.no_grad():
        own = {name: _copy(tensor) for name, tensor in parts.tensors.items()}
        scales = None if parts.normalization is None else _copy(parts.normalization.cpu())
    return FrozenNet(replace(parts, tensors=own, normalization=scales))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
