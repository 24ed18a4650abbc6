"""What the fake kernels share: shapes, dtypes and memory formats without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def register(operator: str) -> Callable[[Kernel], Kernel]:
    """Makes a function the fake kernel of `operator`, called only where its tensors share one device."""

    def decorate(kernel: Kernel) -> Kernel:
        def checked(*args: Any) -> Any:
            lists = (argument if isinstance(argument, (list, tuple)) else (argument,) for argument in args)
            devices = {str(value.device) for values in lists for value in values if isinstance(value, Tensor)}
            if len(devices) > 1:
                raise RuntimeError(f"{operator}: all tensors must be on one device, got {sorted(devices)}")
            return kernel(*args)

        torch.library.register_fake(f"lenet_ext::{operator}", checked)
        return kernel

    return decorate


def empty(first: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An output of `shape`, in the memory format of an operator's first tensor argument."""
    memory_format = (
        suggest_memory_format(first) if len(shape) == 4 == first.dim() else torch.contiguous_format
    )
    return torch.empty(shape, dtype=dtype or first.dtype, device=first.device, memory_format=memory_format)


def bias_gradient(grad_output: Tensor, channels: int, wanted: bool) -> Tensor:
    """The bias gradient (channels,), or an empty tensor when it is not `wanted`."""
    return grad_output.new_empty(channels if wanted else 0)
