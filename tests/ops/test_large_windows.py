"""max_pool2d with windows of more than 256 positions, whose argmax takes 32 bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as native
from compare import DTYPES
from strategies import laid_out

import lenet_ext.functional as F


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 37])
def test_beside_native_torch(channels: int, dtype: torch.dtype, layout: str) -> None:
    """Output, indices and gradient, bit by bit: few distinct values make ties, whose first one wins."""
    x = laid_out(torch.randint(-9, 10, (2, channels, 35, 41)).to(dtype), layout).requires_grad_()
    ours, indices = F.max_pool2d(x, 17, 3, 8, return_indices=True)
    theirs, wanted = native.max_pool2d(x, 17, 3, 8, return_indices=True)
    assert torch.equal(ours, theirs)
    assert torch.equal(indices, wanted)
    # Counts of windows: whole numbers, exact in every dtype.
    slope = torch.ones_like(ours)
    assert torch.equal(*(torch.autograd.grad(output, x, slope)[0] for output in (ours, theirs)))


def test_too_many_positions() -> None:
    with pytest.raises(
        RuntimeError, match="max_pool2d: a kernel of 4097 x 4096 has more than 16777216 positions"
    ):
        F.max_pool2d(torch.zeros(1, 1, 1, 1), (4097, 4096))
