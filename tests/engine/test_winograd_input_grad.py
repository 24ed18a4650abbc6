"""The input gradient by Winograd's method, taken for kernels of 3 or 5 rows with stride 1.

The error of a value is judged by the sum of the magnitudes of its own products.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as F

UNIT = 2.0**-24  # of rounding in float32
FACTOR = 8  # how much worse than a direct sum a value may be
DIRECT = 5 * UNIT  # the largest relative error of direct sums over values of one size

# Channels in and out, kernel, size, padding: with pixels and with input channels as lanes.
SHAPES = {
    "5 rows, pixels": (4, 3, (5, 5), (20, 32), (2, 2)),
    "5 rows, channels": (16, 6, (5, 5), (14, 14), (2, 2)),
    "5 rows, narrow kernel": (20, 6, (5, 3), (11, 13), (2, 1)),
    "5 rows, padding of 3": (6, 5, (5, 5), (9, 18), (3, 2)),
    "3 rows, pixels": (4, 16, (3, 3), (17, 37), (1, 1)),
    "3 rows, channels": (40, 17, (3, 3), (9, 10), (1, 1)),
    "3 rows, small images": (33, 32, (3, 3), (4, 4), (1, 1)),
    "3x3, both axes": (33, 48, (3, 3), (10, 9), (1, 1)),
    "3x3, both axes, small images": (32, 50, (3, 3), (5, 7), (1, 1)),
    "3 rows, wide kernel": (20, 32, (3, 5), (12, 11), (1, 2)),
}
VALUES = [-9999.0, 1e6, 1e20, torch.finfo(torch.float32).min]


def draw(shape: tuple, seed: int = 0, batch: int = 4) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """A layer, images and gradients of its outputs."""
    torch.manual_seed(seed)
    channels, out_channels, kernel, size, padding = shape
    conv = nn.Conv2d(channels, out_channels, kernel, padding=padding)
    images = torch.randn(batch, channels, *size)
    return conv, images, torch.randn(conv(images).shape)


def input_grad(conv: nn.Conv2d, images: Tensor, slope: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(lenet_ext.fuse(nn.Sequential(conv), images)(leaf), leaf, slope)
    return grad


def layer_grad(conv: nn.Conv2d, images: Tensor, slope: Tensor) -> Tensor:
    """By the layer, which takes it for as many pixels as repay the transformation of the weights."""
    leaf = images.clone().requires_grad_()
    output = F.conv2d(leaf, conv.weight, conv.bias, padding=conv.padding)
    (grad,) = torch.autograd.grad(output, leaf, slope)
    return grad


def direct_grad(conv: nn.Conv2d, images: Tensor, slope: Tensor) -> Tensor:
    """In channels_last, which the method is not made for."""
    images, slope = (tensor.to(memory_format=torch.channels_last) for tensor in (images, slope))
    return layer_grad(conv, images, slope)


def spread(conv: nn.Conv2d, slope: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.conv_transpose2d(slope, weight, padding=conv.padding)


def check(conv: nn.Conv2d, images: Tensor, slope: Tensor) -> None:
    weight = conv.weight.detach().double()
    exact, sizes = spread(conv, slope.double(), weight), spread(conv, slope.double().abs(), weight.abs())
    direct = relative((direct_grad(conv, images, slope) - exact).abs(), sizes).max().item()
    allowed = FACTOR * max(DIRECT, direct) * sizes + torch.finfo(torch.float32).tiny
    for way in (input_grad, layer_grad):
        grad = way(conv, images, slope)
        assert grad.isfinite().all()
        error = (grad - exact).abs()
        assert (error <= allowed).all(), relative(error, allowed).max().item()


def relative(error: Tensor, size: Tensor) -> Tensor:
    return torch.where(error == 0, 0.0, error / size)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_method_is_taken(shape: tuple) -> None:
    """And rounds otherwise than direct sums do."""
    conv, images, slope = draw(shape)
    check(conv, images, slope)
    assert not torch.equal(input_grad(conv, images, slope), direct_grad(conv, images, slope))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_value_of_another_size(shape: tuple, value: float) -> None:
    conv, images, slope = draw(shape)
    for image in slope:
        channel, row, column = (int(torch.randint(size, ())) for size in image.shape)
        image[channel, row, column] = value
    check(conv, images, slope)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_zero_windows_are_exact(shape: tuple) -> None:
    """What no gradient reaches is zero."""
    conv, images, slope = draw(shape)
    slope = torch.zeros_like(slope)
    slope[:, 0, slope.shape[2] // 2, slope.shape[3] // 2] = torch.randn(len(slope))
    check(conv, images, slope)
    reached = spread(conv, slope.abs(), torch.ones_like(conv.weight))
    assert (input_grad(conv, images, slope)[reached == 0] == 0).all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_that_are_no_numbers_stay_where_they_belong(shape: tuple, value: float) -> None:
    conv, images, slope = draw(shape)
    slope[1, 0, slope.shape[2] // 2, slope.shape[3] // 2] = value
    want = spread(conv, slope.double(), conv.weight.detach().double()).float()
    torch.testing.assert_close(input_grad(conv, images, slope), want, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_uneven_filters(shape: tuple) -> None:
    """Few weights that matter: pruned filters, one outlier."""
    conv, images, slope = draw(shape)
    conv.weight.data *= torch.rand(conv.weight.shape) < 0.1
    check(conv, images, slope)
    conv, images, slope = draw(shape)
    conv.weight.data[0, 0, 0, 0] = 1e6
    check(conv, images, slope)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(list(SHAPES.values())),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([1.0, 0.5, 0.1, 0.02]),
    deviation=st.sampled_from([0.0, 1.0, 5.0, 20.0]),
    outliers=st.integers(0, 20),
    exponent=st.floats(-12, 30),
)
def test_drawn_gradients(
    shape: tuple, seed: int, density: float, deviation: float, outliers: int, exponent: float
) -> None:
    conv, images, slope = draw(shape, seed)
    slope *= (torch.rand(slope.shape) < density) * torch.exp(deviation * torch.rand(slope.shape[:2]))[
        ..., None, None
    ]
    places = torch.randint(slope.numel(), (outliers,))
    slope.view(-1)[places] = 10.0**exponent * torch.randn(outliers)
    check(conv, images, slope)
