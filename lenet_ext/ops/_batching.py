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


def unfold(tensor: Tensor, size: int, dim: int, member: int) -> Tensor:
    """Undoes `fold`: the vmapped dimension ends up at `dim`, before the one of `member` elements."""
    return tensor.unflatten(dim, (size, member))


def member_shape(tensor: Tensor, batch_dim: int | None) -> list[int]:
    """The sizes without the vmapped dimension."""
    sizes = list(tensor.shape)
    if batch_dim is not None:
        del sizes[batch_dim]
    return sizes


def stack(tensor: Tensor, batch_dim: int | None, size: int, stacked: bool) -> Tensor:
    """With vmap's dimension in front, merged into that of the members where they are `stacked` already."""
    return fold(tensor, batch_dim, size, 0) if stacked else batch_first(tensor, batch_dim, size)


def unstack(tensor: Tensor, size: int, members: list[int]) -> Tensor:
    """Undoes `stack`; `members` is empty or their number."""
    return unfold(tensor, size, 0, members[0]) if members else tensor


def over_rows(bias: Tensor, dim: int) -> Tensor:
    """`bias` with `dim` dimensions, those between the first ones and the last of size 1."""
    return bias.reshape(*bias.shape[:-1], *[1] * (dim - bias.dim()), bias.shape[-1])
