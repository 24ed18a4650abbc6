"""The arguments of conv2d and of the block that begins with it, made those of the operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from lenet_ext.ops._arguments import Padding, Pair, autocast, integer, not_tensors, pair

# stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups: arguments of
# all three operators.
Geometry: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]


def checked(
    operator: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor | None, Geometry]:
    """The tensors after autocast, and the numbers for the operators; the errors name `operator`."""
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    if not (tensors and (bias is None or isinstance(bias, Tensor))):
        raise not_tensors(operator, input=input, weight=weight, bias=bias)
    input, weight, bias = autocast(input, weight, bias)
    stride, dilation = pair(operator, "stride", stride), pair(operator, "dilation", dilation)
    if isinstance(padding, str):
        edges = _named_padding(operator, padding, weight, stride, dilation)
    else:
        vertical, horizontal = pair(operator, "padding", padding)
        edges = (vertical, vertical, horizontal, horizontal)
    return input, weight, bias, (*stride, *edges, *dilation, integer(operator, "groups", groups))


def _named_padding(operator: str, padding: str, weight: Tensor, stride: Pair, dilation: Pair) -> Padding:
    """(top, bottom, left, right) for "valid" or "same"."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        raise RuntimeError(
            f'{operator}: padding must be an int, two ints, "same" or "valid", got {padding!r}'
        )
    if stride != (1, 1):
        raise RuntimeError(f'{operator}: padding="same" needs stride 1, got stride={stride}')
    if weight.dim() != 4:
        raise RuntimeError(f"{operator}: weight must have 4 dimensions, got shape {tuple(weight.shape)}")
    vertical, horizontal = (step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True))
    return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
