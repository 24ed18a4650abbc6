"""Argument handling shared by the public functions: exact types first, so that a call costs little."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[int, int, int, int]

any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled


def integer(operator: str, argument: str, value: object) -> int:
    """`value` as an int (or SymInt); TypeError for anything that is not an integer."""
    if type(value) is int:
        return value
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    try:
        return python_operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        message = f"{operator}: {argument} must be an int, got {value!r} ({type(value).__name__})"
        raise TypeError(message) from None


def pair(operator: str, argument: str, value: int | Sequence[int]) -> Pair:
    """`value` as (height, width): an int or a sequence of one int stands for both.

    Raises TypeError for anything but ints, RuntimeError for a sequence of another length.
    """
    if type(value) is int:
        return value, value
    if not isinstance(value, (tuple, list)):
        number = integer(operator, argument, value)
        return number, number
    if len(value) == 2:
        height, width = value
        if type(height) is int and type(width) is int:
            return height, width
        return integer(operator, argument, height), integer(operator, argument, width)
    if len(value) == 1:
        number = integer(operator, argument, value[0])
        return number, number
    raise RuntimeError(f"{operator}: {argument} must be an int or two ints (height, width), got {value!r}")


def plane(tensor: Tensor) -> Pair:
    """(height, width) of (N, C, H, W), as a tuple: operators take longer to read a torch.Size."""
    return tensor.size(2), tensor.size(3)


def not_tensors(operator: str, **arguments: object) -> TypeError:
    """The error for the first of `arguments` that is neither a tensor nor None."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and (value is not None or name != "bias"):
            return TypeError(f"{operator}: {name} must be a Tensor, got {type(value).__name__}")
    raise AssertionError(f"{operator}: every argument is a tensor")


def autocast_is_on(tensor: Tensor) -> bool:
    """Whether torch.autocast is on for the device of `tensor`."""
    return any_autocast() and torch.is_autocast_enabled(tensor.device.type)


def autocast(*tensors: Tensor | None) -> Any:
    """`tensors` in the dtype that torch.autocast asks for on their device; float64 stays, as in torch."""
    if not any_autocast():
        return tensors
    first = next(tensor for tensor in tensors if tensor is not None)
    if not autocast_is_on(first):
        return tensors
    dtype = torch.get_autocast_dtype(first.device.type)
    return tuple(
        tensor.to(dtype) if tensor is not None and tensor.dtype in _AUTOCAST_DTYPES else tensor
        for tensor in tensors
    )


_AUTOCAST_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
