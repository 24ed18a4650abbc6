"""Bitwise the same results for every number of threads, and from call to call."""

from __future__ import annotations

import pytest
import torch
from compare import DTYPES
from strategies import laid_out
from torch import Tensor

import lenet_ext
import lenet_ext.functional as F

# Large enough to be split among threads, and in no even shares.
CALLS = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b), [(37, 3, 32, 32), (6, 3, 5, 5), (6,)]),
    "conv2d of one image": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        [(1, 16, 61, 67), (33, 16, 3, 3), (33,)],
    ),
    "conv2d 1x1": (lambda x, w, b: F.conv2d(x, w, b), [(5, 65, 31, 31), (70, 65, 1, 1), (70,)]),
    "conv2d stride 2": (lambda x, w, b: F.conv2d(x, w, b, 2, 3), [(7, 3, 63, 65), (16, 3, 7, 7), (16,)]),
    "depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=67), [(5, 67, 33, 31), (67, 1, 3, 3)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [(37, 6, 28, 28)]),
    "max_pool2d 3x3": (lambda x: F.max_pool2d(x, 3, 2, 1), [(11, 17, 41, 43)]),
    "linear": (lambda x, w, b: F.linear(x, w, b), [(131, 400), (121, 400), (121,)]),
    "linear of one row": (lambda x, w, b: F.linear(x, w, b), [(1, 4097), (1025, 4097), (1025,)]),
    "conv2d_relu_max_pool2d": (
        lambda x, w, b: F.conv2d_relu_max_pool2d(x, w, b),
        [(37, 3, 32, 32), (6, 3, 5, 5), (6,)],
    ),
    "conv2d_relu_max_pool2d 3x3": (
        lambda x, w: F.conv2d_relu_max_pool2d(x, w, padding=1, pool_size=3, pool_stride=2),
        [(11, 16, 21, 23), (17, 16, 3, 3)],
    ),
    "linear_relu": (lambda x, w, b: F.linear_relu(x, w, b), [(131, 400), (121, 400), (121,)]),
    "relu": (lambda x: F.relu(x), [(37, 6, 41, 43)]),
}


def results(call, tensors: list[Tensor]) -> list[Tensor]:
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    output = call(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, output.detach() / 16)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_operators(name: str, dtype: torch.dtype, layout: str) -> None:
    call, shapes = CALLS[name]
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    tensors[0] = laid_out(tensors[0], layout) if tensors[0].dim() == 4 else tensors[0]
    torch.set_num_threads(1)
    serial = results(call, tensors)
    assert all(tensor.isfinite().all() for tensor in serial)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        for actual, expected in zip(results(call, tensors), serial, strict=True):
            assert torch.equal(actual, expected), f"{threads} threads"


@pytest.mark.usefixtures("threads")
def test_training() -> None:
    """Three SGD steps of LeNet on 67 images."""
    images, targets = torch.randn(67, 3, 32, 32), torch.randint(10, (67,))
    weights = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = lenet_ext.LeNet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert all(torch.equal(other, weights[0]) for other in weights)
