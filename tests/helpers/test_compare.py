"""The comparison itself: rounding passes, the smallest mistakes of a kernel do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import assert_sums_close
from strategies import normal

TERMS = 200


def sums(dtype: torch.dtype, mistake: str = "") -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A hundred sums as a kernel would give them, the exact ones, and their magnitudes."""
    a, b = (normal((100, TERMS), dtype, seed).double() for seed in (0, 1))
    products = a * b
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    wrong = products.clone()
    if mistake == "product left out":
        wrong[37, -1] = 0
    elif mistake == "product counted twice":
        wrong[99, 0] *= 2
    elif mistake == "neighbour taken":
        wrong[0, 5] = products[0, 6]
    # One after the other, as slow and as inexact as a kernel may be.
    return (
        wrong.to(accumulator).cumsum(1)[:, -1].to(dtype),
        products.sum(1).numpy(),
        products.abs().sum(1).numpy(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rounding_passes(dtype: torch.dtype) -> None:
    assert_sums_close(*sums(dtype), TERMS)


@pytest.mark.parametrize("mistake", ["product left out", "product counted twice", "neighbour taken"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_wrong_product_does_not(dtype: torch.dtype, mistake: str) -> None:
    with pytest.raises(AssertionError):
        assert_sums_close(*sums(dtype, mistake), TERMS)


def test_low_accumulation_does_not() -> None:
    """Sums kept in float16 itself fall short of the promise."""
    _, exact, magnitude = sums(torch.float16)
    a, b = (normal((100, TERMS), torch.float16, seed) for seed in (0, 1))
    total = torch.zeros(100, dtype=torch.float16)
    for product in (a * b).unbind(1):
        total = total + product
    with pytest.raises(AssertionError):
        assert_sums_close(total, exact, magnitude, TERMS)
