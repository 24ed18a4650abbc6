"""Normal noise for private training."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

__all__ = ["secure_normal"]

PRECISION = 53  # bits of a float64 in [0, 1)


def secure_normal(count: int) -> Tensor:
    """float64 (count,): standard normal numbers from the operating system's cryptographically safe generator.

    Each is half the sum of four, so that which floating-point numbers can come out tells nothing of what they
    are added to: Holohan, Braghin, "Secure random sampling in differential privacy" (2021), section 5.1, with
    n = 2.
    """
    return _normal(4 * count).view(4, count).sum(0) / 2


def _normal(count: int) -> Tensor:
    """By the method of Box and Muller: two of two uniform numbers."""
    pairs = -(-count // 2)
    if pairs == 0:
        return torch.empty(0, dtype=torch.float64)
    bits = torch.frombuffer(bytearray(os.urandom(2 * 8 * pairs)), dtype=torch.int64)
    places = (bits >> (64 - PRECISION)) & (2**PRECISION - 1)
    first, second = ((places.to(torch.float64) + 1) * 2.0**-PRECISION).view(2, pairs)  # in (0, 1]
    radius, angle = torch.sqrt(-2 * torch.log(first)), 2 * math.pi * second
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)))[:count]
