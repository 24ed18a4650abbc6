"""Arguments that no operator can take, and how tests name them."""

from __future__ import annotations

from torch import Tensor

HUGE = [2**31, 2**40, 2**62, 2**63 - 1]


def describe(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype} {value.device}" if isinstance(value, Tensor) else str(value)
