"""Tensors of more than 2^31 elements. Not run by default: `make test PYTEST_ARGS="-m slow" PYTEST_WORKERS=0`.

Values repeat with a period that divides no power of two, so an offset cut to 32 bits would meet others.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as native
from torch import Tensor

import lenet_ext.functional as F

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_threads")]
LIMIT, PERIOD = 2**31, 1009
CHUNK = 2**24


@pytest.fixture
def all_threads(threads: None) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def need_memory(gigabytes: int) -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if available < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GiB, {available / 2**30:.1f} are available")


def periodic(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.zeros(shape, dtype=dtype)
    whole = tensor.numel() // PERIOD * PERIOD
    tensor.view(-1)[:whole].view(-1, PERIOD).copy_(torch.randn(PERIOD).to(dtype))
    return tensor


def test_relu() -> None:
    need_memory(10)
    x = periodic((LIMIT + 5 * PERIOD,), torch.bfloat16)
    y = F.relu(x)
    assert y.numel() > LIMIT
    for actual, values in zip(y.split(CHUNK), x.split(CHUNK), strict=True):
        assert torch.equal(actual, native.relu(values))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_max_pool2d(layout: torch.memory_format) -> None:
    """One plane of more than 2^31 pixels, and channels_last images."""
    need_memory(10)
    shape = (1, 1, 46349, 46349) if layout == torch.contiguous_format else (1, 16, 11593, 11600)
    if layout == torch.contiguous_format:
        x = periodic(shape, torch.bfloat16)
    else:
        batch, channels, height, width = shape
        x = periodic((batch, height, width, channels), torch.bfloat16).permute(0, 3, 1, 2)
    assert x.numel() > LIMIT
    y = F.max_pool2d(x, 2)
    rows = 500
    for first in range(0, y.shape[2], rows):
        values = x[:, :, 2 * first : 2 * (first + rows)]
        assert torch.equal(y[:, :, first : first + rows], native.max_pool2d(values, 2)[:, :, :rows])


def test_linear_with_a_large_input() -> None:
    need_memory(13)
    features = 2**15 + 3
    x = periodic((2**16, features), torch.float32)
    weight = torch.randn(2, features)
    assert x.numel() > LIMIT
    y = F.linear(x, weight)
    for actual, values in zip(y.split(500), x.split(500), strict=True):
        torch.testing.assert_close(actual, native.linear(values, weight), rtol=1e-4, atol=1e-2)


def test_linear_with_a_large_output() -> None:
    """Each output is one product: the same bits."""
    need_memory(13)
    x, weight = torch.randn(2**16, 1), torch.randn(2**15 + 3, 1)
    y = F.linear(x, weight)
    assert y.numel() > LIMIT
    for actual, values in zip(y.split(500), x.split(500), strict=True):
        assert torch.equal(actual, values * weight.t())
