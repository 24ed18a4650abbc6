"""Comparison of a tensor with exact values, to what its arithmetic can promise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def exact(tensor: Tensor) -> np.ndarray:
    """The values in float64, which holds each of the four dtypes without error."""
    return tensor.detach().double().numpy()


def assert_sums_close(
    actual: Tensor, expected: ArrayLike, magnitude: ArrayLike, terms: int, repeated: bool = False
) -> None:
    """Checks sums of `terms` products, element by element and by relative norm.

    A sum of n products, added one after the other, strays by about eps * sqrt(n) * sum(|products|) when its
    errors are independent (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); `magnitude`
    is that sum of absolute values. The errors of `repeated`, equal products all go one way: then eps * n is
    the bound. Products are accumulated in float32 at least, and the result is rounded once to its own dtype.
    One product left out changes a sum of n like ones by magnitude / n: far more.
    """
    expected, magnitude = np.asarray(expected), np.asarray(magnitude)
    assert tuple(actual.shape) == expected.shape
    storage = torch.finfo(actual.dtype)
    accumulator = storage.eps if actual.dtype == torch.float64 else torch.finfo(torch.float32).eps
    slack = accumulator * (4 + (terms if repeated else np.sqrt(terms))) * magnitude
    if storage.bits == 16:
        slack = slack + storage.eps * np.abs(expected) + storage.smallest_normal * storage.eps
    error = np.abs(exact(actual) - expected)
    worst = np.unravel_index(np.argmax(error - slack), error.shape) if error.size else None
    assert np.all(error <= slack), (
        f"at {worst}: got {exact(actual)[worst]}, expected {expected[worst]}, allowed error {slack[worst]}"
    )
    # Errors of either sign: the norm strays by less than the worst element may.
    assert np.linalg.norm(error) <= 0.5 * np.linalg.norm(slack) + np.finfo(np.float64).tiny


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Checks values (NaN equal to NaN), dtype and shape."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    norm = torch.linalg.vector_norm(expected.double())
    return float(torch.linalg.vector_norm(actual.double() - expected.double()) / norm) if norm > 0 else 0.0
