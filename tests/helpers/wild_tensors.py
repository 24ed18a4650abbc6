"""Tensors of any kind that torch has: for operators that must survive all of them."""

from __future__ import annotations

import math

import torch
from compare import DTYPES
from hypothesis import strategies as st
from torch import Tensor

OTHER_DTYPES = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.uint16),
]
SIZES = [0, 1, 1, 2, 3, 5, 8, 17]
# Sizes of expanded tensors: one element in memory, whose copy no memory holds.
HUGE = [2**20, 2**31, 2**40, 2**62]
KINDS = [
    *("plain", "plain", "plain", "offset", "strided", "overlapping", "expanded", "channels_last"),
    *("transposed", "huge", "special values", "requires_grad", "parameter", "inference", "negative bit"),
    *("conjugate", "meta", "sparse", "compressed", "quantized", "mkldnn", "nested", "zero tensor"),
]


def integers_near_zero(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def wild_shapes(draw: st.DrawFn, like: Tensor | None) -> tuple[int, ...]:
    """Any shape, or a changed one of `like`."""
    if like is None or like.is_nested or draw(st.integers(0, 2)) == 0:
        return tuple(draw(st.lists(st.sampled_from(SIZES), max_size=5)))
    shape = list(like.shape)
    change = draw(st.sampled_from(["none", "none", "size", "size", "less", "more", "order"]))
    if change == "more":
        shape.insert(draw(st.integers(0, len(shape))), draw(st.sampled_from(SIZES)))
    elif shape and change == "size":
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(SIZES))
    elif shape and change == "less":
        del shape[draw(st.integers(0, len(shape) - 1))]
    elif change == "order":
        shape = list(draw(st.permutations(shape)))
    return tuple(shape)


@st.composite
def wild_tensors(draw: st.DrawFn, like: Tensor | None) -> Tensor:
    """A new tensor; mostly of the dtype of `like`, to pass the checks of dtypes and meet the others."""
    shape, seed = draw(wild_shapes(like)), draw(st.integers(0, 2**16))
    dtype = draw(st.sampled_from([*DTYPES, *OTHER_DTYPES]))
    if like is not None and draw(st.integers(0, 3)):
        dtype = like.dtype
    if math.prod(shape) > 2**16:
        shape = shape[:2]
    kind = draw(st.sampled_from(KINDS))
    values = integers_near_zero(shape, seed)
    if dtype in (torch.uint8, torch.uint16):
        values = values * 37 % 256  # for argmax and images: bytes of all sizes
    plain = values.to(dtype if dtype in (*DTYPES, *OTHER_DTYPES) else torch.float32)
    try:
        return of_kind(kind, plain, draw(st.sampled_from(HUGE)))
    except (RuntimeError, TypeError, IndexError):  # torch has no such tensor of this dtype or rank
        return plain


def of_kind(kind: str, plain: Tensor, huge: int) -> Tensor:
    """`plain` as a tensor of another kind; torch's own error where there is none."""
    if kind == "offset":
        return torch.cat([plain.flatten(), plain.flatten()])[plain.numel() :].view(plain.shape)
    if kind == "strided":
        return torch.stack([plain, plain], dim=-1)[..., 1]
    if kind == "overlapping":
        return plain.as_strided(plain.shape, [1] * plain.dim()) if plain.numel() else plain
    if kind == "expanded":
        return plain[..., :1].expand(plain.shape)
    if kind == "channels_last":
        return plain.contiguous(memory_format=torch.channels_last)
    if kind == "transposed":
        return plain.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "huge":
        return plain[..., :1].expand(*plain.shape[:-1], huge)
    if kind == "special values":
        specials = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3e38])
        return specials[torch.arange(plain.numel()) % len(specials)].reshape(plain.shape).to(plain.dtype)
    if kind == "requires_grad":
        return plain.requires_grad_() * 1
    if kind == "parameter":
        return torch.nn.Parameter(plain)
    if kind == "inference":
        with torch.inference_mode():
            return plain.clone()
    if kind == "negative bit":
        return torch._neg_view(-plain)
    if kind == "conjugate":
        return plain.to(torch.complex64).conj()
    if kind == "meta":
        return plain.to("meta")
    if kind == "sparse":
        return plain.to_sparse()
    if kind == "compressed":
        return plain.to_sparse_csr()
    if kind == "quantized":
        return torch.quantize_per_tensor(plain.float(), 0.5, 10, torch.quint8)
    if kind == "mkldnn":
        return plain.to_mkldnn()
    if kind == "nested":
        return torch.nested.nested_tensor([plain, plain])
    if kind == "zero tensor":
        return torch._efficientzerotensor(plain.shape, dtype=plain.dtype)
    return plain
