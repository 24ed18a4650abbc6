"""For torch.vmap: its extra dimension is folded into one that the kernels loop over, and taken out again."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)


def batch_first(tensor: Tensor, batch_dim: int | None, size: int) -> Tensor:
    """`tensor` with its vmapped dimension in front; repeated (without a copy) where it has none."""
    return tensor.expand(size, *tensor.shape) if batch_dim is None else tensor.movedim(batch_dim, 0)


def fold(tensor: OptionalTensor, batch_dim: int | None, size: int, into: int) -> OptionalTensor:
    """`tensor` with its vmapped dimension of `size` merged, as the outer one, into dimension `into`."""
    if tensor is None:
        return None
    return batch_first(tensor, batch_dim, size).movedim(0, into).flatten(into, into + 1)


def unfold(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Undoes `fold`: the vmapped dimension ends up at `dim`."""
    return tensor.unflatten(dim, (size, tensor.shape[dim] // size))
