"""Weight gradients of many small images, of which several are summed in one product."""

from __future__ import annotations

import copy

import pytest
import torch
from compare import relative_error
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as F

# Channels in and out, kernel, size, stride, padding, groups; up to some hundred pixels in all.
SHAPES = [
    (7, 70, (4, 4), (8, 8), 2, 1, 1),
    (66, 40, (3, 3), (4, 4), 1, 1, 1),
    (20, 33, (5, 5), (5, 6), 1, 2, 1),
    (20, 17, (3, 3), (5, 7), 1, 0, 1),
    (32, 34, (3, 3), (8, 8), 2, 1, 2),
    (40, 20, (1, 1), (6, 6), 2, 0, 1),
    (64, 48, (2, 6), (3, 9), (1, 3), (0, 2), 1),
]
BATCHES = [1, 2, 9, 37]


def draw(shape: tuple, batch: int) -> tuple[nn.Conv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    channels, out_channels, kernel, size, stride, padding, groups = shape
    conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups)
    images = torch.randn(batch, channels, *size)
    return conv, images, torch.randn(conv(images).shape)


def expected(conv: nn.Conv2d, images: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    twin = copy.deepcopy(conv).double()
    return torch.autograd.grad(twin(images.double()), list(twin.parameters()), slope.double())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer(shape: tuple, memory_format: torch.memory_format, batch: int) -> None:
    conv, images, slope = draw(shape, batch)
    wanted = expected(conv, images, slope)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        weight, bias = (p.detach().to(dtype).requires_grad_() for p in conv.parameters())
        inputs = images.to(dtype).to(memory_format=memory_format)
        output = F.conv2d(inputs, weight, bias, conv.stride, conv.padding, groups=conv.groups)
        for grad, want in zip(
            torch.autograd.grad(output, [weight, bias], slope.to(dtype)), wanted, strict=True
        ):
            assert relative_error(grad, want) < tolerance


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_engine(shape: tuple, batch: int) -> None:
    """The same for every number of threads."""
    conv, images, slope = draw(shape, batch)
    fused = lenet_ext.fuse(nn.Sequential(conv), images)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(torch.autograd.grad(fused(images), list(fused.parameters()), slope))
    finally:
        torch.set_num_threads(threads)
    for grad, other, want in zip(*results, expected(conv, images, slope), strict=True):
        assert torch.equal(grad, other)
        assert relative_error(grad, want) < 1e-5
