"""softmax and log_softmax of the engine, over every dimension."""

from __future__ import annotations

import pytest
import torch
from stages import check, engine_pass, one
from torch import Tensor

from lenet_ext.engine.layers import LogSoftmax, Softmax

KINDS = [Softmax, LogSoftmax]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_over_each_dimension(dtype: torch.dtype, kind: type[Softmax | LogSoftmax]) -> None:
    shapes = [(1,), (10,), (15,), (17,), (1000,), (3, 17), (10, 4, 4), (2, 3, 33), (16, 1, 2)]
    for shape in shapes:
        for dim in range(len(shape)):
            for scale in (1, 40):  # so far apart that only the largest is left
                check(one(kind(dim)), images(9, *shape, dtype=dtype) * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_large_values_do_not_overflow(kind: type[Softmax | LogSoftmax]) -> None:
    check(one(kind(0)), images(3, 10) * 10 + 1e4, tolerance=2e-5)
    check(one(kind(0)), images(3, 10, 3) - 3e38, tolerance=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_what_is_not_finite(kind: type[Softmax | LogSoftmax], shape: tuple[int, ...]) -> None:
    x = images(4, *shape)
    x[0, 1], x[1, 2], x[2] = -torch.inf, torch.nan, -torch.inf
    output = engine_pass(one(kind(0)), x).outputs[0]
    expected = kind(0).apply(x)
    torch.testing.assert_close(output, expected, equal_nan=True)


def test_empty_batch() -> None:
    assert engine_pass(one(Softmax(0)), images(0, 5)).outputs[0].shape == (0, 5)


def test_refused() -> None:
    with pytest.raises(RuntimeError, match="dimension"):
        engine_pass(one(Softmax(1)), images(2, 5))
