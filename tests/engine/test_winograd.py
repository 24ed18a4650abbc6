"""Winograd's method, for float32 convolutions of 3 or 5 rows with stride 1, and of two rows to a stride."""

from __future__ import annotations

import copy

import pytest
import torch
from compare import relative_error
from torch import Tensor, nn

import lenet_ext

# A tile is 2, 3 or 4 output rows, for 3x3 kernels of many channels 4x4 outputs; lanes are pixels or output
# channels, and vectors have up to 16 of them.
SHAPES = [
    # channels in, out; kernel; height, width; padding; stride, if any
    (3, 6, (5, 5), (32, 32), (0, 0)),
    (6, 16, (5, 5), (14, 14), (0, 0)),
    (1, 4, (5, 9), (5, 10), (0, 0)),
    (2, 5, (5, 5), (6, 6), (0, 1)),
    (2, 7, (5, 5), (7, 37), (2, 2)),
    (3, 5, (5, 3), (8, 20), (1, 0)),
    (9, 8, (5, 1), (9, 15), (4, 0)),
    (4, 33, (5, 5), (11, 13), (2, 3)),
    (5, 80, (5, 7), (10, 9), (2, 3)),
    (3, 4, (3, 3), (3, 3), (0, 0)),
    (3, 6, (3, 3), (1, 50), (1, 1)),
    (9, 5, (3, 1), (4, 1), (2, 0)),
    (3, 17, (3, 3), (5, 18), (1, 1)),
    (17, 64, (3, 3), (13, 12), (1, 1)),
    (16, 5, (3, 3), (11, 40), (1, 2)),
    (10, 33, (3, 5), (9, 7), (0, 2)),
    (48, 33, (3, 3), (13, 12), (1, 1)),
    (49, 32, (3, 3), (6, 19), (0, 0)),
    (64, 40, (3, 3), (9, 7), (2, 1)),
    (2, 20, (3, 5), (14, 31), (0, 2)),
    (12, 16, (4, 2), (4, 20), (0, 0), (2, 2)),
    (7, 33, (6, 5), (23, 18), (2, 0), (3, 1)),
    (25, 20, (2, 3), (8, 9), (1, 1), (1, 2)),
    (6, 40, (4, 4), (17, 15), (1, 2), (2, 2)),
    (4, 32, (8, 8), (35, 37), (0, 0), (4, 4)),
]
POOLS = {"none": None, "2x2": nn.MaxPool2d(2), "3x3": nn.MaxPool2d(3, 2, 1)}


def network(shape: tuple, pool: str, bias: bool = True) -> tuple[nn.Sequential, Tensor]:
    """Two images in front of a convolution and, where it leaves room, a pool."""
    torch.manual_seed(0)
    channels, out_channels, kernel, size, padding, *stride = shape
    conv = nn.Conv2d(channels, out_channels, kernel, *stride, padding=padding, bias=bias)
    images = torch.randn(2, channels, *size)
    layers: list[nn.Module] = [conv]
    if POOLS[pool] is not None and min(conv(images).shape[2:]) > 1:
        layers.append(POOLS[pool])
    return nn.Sequential(*layers), images


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients(shape: tuple, pool: str) -> None:
    """Against native torch in float64. A maximum taken from the wrong place would show in the gradients."""
    model, images = network(shape, pool, bias=shape[0] != 2)
    twin = copy.deepcopy(model).double()
    fused = lenet_ext.fuse(model, images)
    leaf, twin_leaf = images.requires_grad_(), images.detach().double().requires_grad_()
    output, expected = fused(leaf), twin(twin_leaf)
    scale = expected.abs().max().item()
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-5 * scale)
    assert relative_error(output.detach(), expected.detach()) < 2e-6
    with torch.no_grad():
        assert torch.equal(fused(images), output)  # without the places of the maxima
    slope = torch.randn(output.shape)
    grads = torch.autograd.grad(output, [leaf, *fused.parameters()], slope)
    wanted = torch.autograd.grad(expected, [twin_leaf, *twin.parameters()], slope.double())
    for grad, want in zip(grads, wanted, strict=True):
        assert relative_error(grad, want) < 1e-5


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", SHAPES[:4] + SHAPES[-3:], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity(shape: tuple, pool: str, value: float) -> None:
    """They reach the outputs that read them, as in native torch, and no other."""
    model, images = network(shape, pool)
    fused = lenet_ext.fuse(model, images)
    images[1, 0, images.shape[2] // 2, images.shape[3] // 2] = value
    with torch.no_grad():
        output, expected = fused(images), model(images)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_float64_is_direct() -> None:
    """To the last few digits, also where the terms of the sums differ in size."""
    model, images = network(SHAPES[0], "none")
    model, images = model.double(), images.double()
    images[0] *= 1e12
    output = lenet_ext.fuse(model, images)(images)
    torch.testing.assert_close(output, model(images), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_direct_everywhere(shape: tuple, pool: str) -> None:
    """In each entrance to the convolutions: an infinity reaches the outputs that read it and no other."""
    model, images = network(shape, pool)
    model, images = model.double(), images.double()
    fused, conv = lenet_ext.fuse(model, images), model[0]
    images[1, 0, images.shape[2] // 2, images.shape[3] // 2] = torch.inf
    expected = model(images)
    assert not expected.isfinite().all()
    arguments = (images, conv.weight, conv.bias, conv.stride, conv.padding)
    for output, want in (
        (fused(images), expected),
        (fused(images.clone().requires_grad_()), expected),
        (lenet_ext.convert(model)(images), expected),
        (lenet_ext.functional.conv2d(*arguments), conv(images)),
        (lenet_ext.functional.conv2d_relu_max_pool2d(*arguments, pool_size=1), conv(images).relu()),
    ):
        torch.testing.assert_close(output, want, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_gradients_are_direct_everywhere(shape: tuple) -> None:
    """An infinite gradient of one output reaches what that output read and nothing else."""
    model, images = network(shape, "none")
    model, images = model.double(), images.double()
    twin, fused = copy.deepcopy(model), lenet_ext.fuse(model, images)
    gradients = []
    for net in (fused, lenet_ext.convert(model), twin):
        leaf = images.clone().requires_grad_()
        output = net(leaf)
        slope = torch.ones_like(output)
        slope[1, 0, output.shape[2] // 2, output.shape[3] // 2] = torch.inf
        gradients.append(torch.autograd.grad(output, [leaf, *net.parameters()], slope))
    for ours in gradients[:2]:
        torch.testing.assert_close(ours, gradients[2], rtol=1e-10, atol=1e-10, equal_nan=True)
