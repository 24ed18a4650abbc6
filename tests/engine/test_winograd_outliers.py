"""What Winograd's method makes of values of very different sizes: hardly worse than direct sums.

The error of an output is judged by the sum of the magnitudes of its own products.
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
FACTOR = 8  # how much worse than a direct sum an output may be
DIRECT = 5 * UNIT  # the largest relative error of direct sums over values of one size

# Each set of points, with pixels and with output channels as lanes.
SHAPES = {
    "5 rows, 8 points, pixels": (3, 6, (5, 5), (20, 32), (0, 0)),
    "5 rows, 8 points, channels": (6, 16, (5, 5), (14, 14), (0, 0)),
    "5 rows, 6 points": (3, 6, (5, 5), (6, 30), (0, 1)),
    "5 rows, padded": (4, 20, (5, 3), (11, 13), (2, 1)),
    "3 rows, 6 points, pixels": (16, 4, (3, 3), (17, 37), (1, 1)),
    "3 rows, 6 points, channels": (17, 40, (3, 3), (9, 10), (1, 1)),
    "3 rows, 4 points, pixels": (3, 4, (3, 3), (18, 33), (1, 1)),
    "3 rows, 4 points, channels": (5, 32, (3, 3), (10, 9), (1, 1)),
    "3x3, both axes": (48, 33, (3, 3), (10, 9), (1, 1)),
    "3x3, both axes, unpadded": (64, 32, (3, 3), (7, 12), (0, 0)),
    "4 rows, stride 2": (6, 16, (4, 4), (17, 15), (1, 0), (2, 2)),
    "8 rows, stride 4": (4, 32, (8, 8), (36, 37), (0, 0), (4, 4)),
}
VALUES = [-9999.0, 1e6, 1e20, torch.finfo(torch.float32).min]


def draw(shape: tuple, seed: int = 0, batch: int = 8) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(seed)
    channels, out_channels, kernel, size, padding, *stride = shape
    conv = nn.Conv2d(channels, out_channels, kernel, *stride, padding=padding)
    return conv, torch.randn(batch, channels, *size)


def check(conv: nn.Conv2d, images: Tensor, factor: float = FACTOR) -> None:
    """Of the layer, the fused layer, and the fused layer with a pool."""
    weight, bias = conv.weight.detach(), conv.bias.detach()
    steps = conv.stride, conv.padding
    exact = nn.functional.conv2d(images.double(), weight.double(), bias.double(), *steps)
    sizes = nn.functional.conv2d(images.double().abs(), weight.double().abs(), bias.double().abs(), *steps)
    direct = F.conv2d(
        images.to(memory_format=torch.channels_last), weight, bias, *steps
    )  # which Winograd's method is not made for
    allowed = factor * max(DIRECT, relative((direct - exact).abs(), sizes).max().item()) * sizes
    allowed += torch.finfo(torch.float32).tiny
    pool = nn.MaxPool2d(2)
    results = {
        "layer": (F.conv2d(images, weight, bias, *steps), exact, allowed),
        "fused": (fused_of(nn.Sequential(conv), images), exact, allowed),
        "pooled": (fused_of(nn.Sequential(conv, pool), images), pool(exact), pool(allowed)),
    }
    for way, (output, expected, bound) in results.items():
        assert output.isfinite().all(), way
        error = (output - expected).abs()
        assert (error <= bound).all(), (way, relative(error, bound).max().item())


def fused_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = lenet_ext.fuse(model, images)(images)
    assert isinstance(output, Tensor)
    return output


def relative(error: Tensor, size: Tensor) -> Tensor:
    return torch.where(error == 0, 0.0, error / size)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_pixel_of_another_size(shape: tuple, value: float) -> None:
    conv, images = draw(shape)
    for image in images:
        channel, row, column = (int(torch.randint(size, ())) for size in image.shape)
        image[channel, row, column] = value
    check(conv, images)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_zero_windows_are_exact(shape: tuple) -> None:
    """Nothing is lost beside a lone value: such an output is the bias."""
    conv, images = draw(shape)
    images = torch.zeros_like(images)
    images[:, 0, images.shape[2] // 2, images.shape[3] // 2] = torch.randn(len(images))
    check(conv, images)
    conv.bias.data.zero_()
    read = nn.functional.conv2d(images.abs(), torch.ones_like(conv.weight), None, conv.stride, conv.padding)
    assert (fused_of(nn.Sequential(conv), images)[read == 0] == 0).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sizes_at_the_ends_of_the_range(shape: tuple) -> None:
    conv, images = draw(shape)
    conv.bias.data.zero_()
    conv.weight.data = conv.weight.sign() * 1e-38
    check(conv, images.sign() * 1e38)
    conv.weight.data = conv.weight.sign() * 1e30
    check(conv, images * 1e-30)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_uneven_filters(shape: tuple) -> None:
    """Few weights that matter: the identity, pruned filters, one outlier."""
    conv, images = draw(shape)
    conv.bias.data.zero_()
    nn.init.dirac_(conv.weight)
    check(conv, images)
    conv, images = draw(shape)
    conv.weight.data *= torch.rand(conv.weight.shape) < 0.1
    check(conv, images)
    conv, images = draw(shape)
    conv.weight.data[0, 0, 0, 0] = 1e6
    check(conv, images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_16_bit_types(shape: tuple, dtype: torch.dtype) -> None:
    """They are computed in float32: outputs that do not read the outlier are as if it was not there."""
    conv, images = draw(shape)
    conv, images = conv.to(dtype), images.to(dtype)
    plain = fused_of(nn.Sequential(conv), images)
    row, column = images.shape[2] // 2, images.shape[3] // 2
    images[:, 0, row, column] = 60_000.0
    output = fused_of(nn.Sequential(conv), images)
    marks = torch.zeros(images.shape)
    marks[:, 0, row, column] = 1
    read = nn.functional.conv2d(marks, torch.ones(conv.weight.shape), None, conv.stride, conv.padding) > 0
    unread = ~read
    torch.testing.assert_close(output[unread], plain[unread], rtol=torch.finfo(dtype).eps, atol=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(list(SHAPES.values())),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([1.0, 0.5, 0.1, 0.02]),
    spread=st.sampled_from([0.0, 1.0, 5.0, 20.0]),
    outliers=st.integers(0, 20),
    exponent=st.floats(-12, 30),
    signs=st.booleans(),
)
def test_drawn_images(
    shape: tuple, seed: int, density: float, spread: float, outliers: int, exponent: float, signs: bool
) -> None:
    conv, images = draw(shape, seed)
    images = images if signs else images.abs()
    images *= (torch.rand(images.shape) < density) * torch.exp(spread * torch.rand(images.shape[:2]))[
        ..., None, None
    ]
    places = torch.randint(images.numel(), (outliers,))
    images.view(-1)[places] = 10.0**exponent * torch.randn(outliers)
    check(conv, images)
