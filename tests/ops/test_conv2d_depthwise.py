"""Depthwise convolutions of 3x3 and 5x5, at sizes around the edges of the strips that compute them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as native
from compare import DTYPES
from conv2d_check import check_against_reference
from reference import Geometry
from strategies import SIZES, ConvCase

import lenet_ext.functional as F


def check(
    image: tuple[int, int, int, int],
    kernel: int,
    geometry: Geometry,
    dtype: torch.dtype = torch.float32,
    multiplier: int = 1,
    bias: bool = True,
) -> None:
    weight = (image[1] * multiplier, 1, kernel, kernel)
    check_against_reference(ConvCase(image, weight, geometry, bias, dtype, "contiguous", 0))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("width", SIZES)
def test_widths(width: int, kernel: int, stride: int) -> None:
    """Rows of every length around the vector widths, heights in no even number of strips of short rows."""
    for pad, height, dtype in [
        (kernel // 2, 7, torch.float32),
        (0, kernel, torch.float32),
        (1, 9, torch.float64),
    ]:
        geometry = Geometry((stride, stride), (pad,) * 4, groups=2)
        check((2, 2, height, width + kernel - 1 - pad), kernel, geometry, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_narrow_images(kernel: int, dtype: torch.dtype) -> None:
    """Several rows to a vector, and of the last strip only some."""
    for height, width in itertools.product([1, 2, 3, 8, 24], [1, 2, 3, 5, 7, 8]):
        geometry = Geometry(padding=(kernel // 2,) * 4, groups=3)
        check((9, 3, height, width), kernel, geometry, dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 0, 2, 0), (2, 3, 3, 2), (5, 6, 7, 5), (4, 4, 0, 0)])
def test_paddings(padding: tuple[int, int, int, int], kernel: int, stride: int) -> None:
    """Uneven padding, more of it than the kernel has columns, and images smaller than the kernel."""
    for height, width in [(5, 4), (6, 18), (9, 5)]:
        if height + padding[0] + padding[1] >= kernel and width + padding[2] + padding[3] >= kernel:
            check((3, 2, height, width), kernel, Geometry((stride, stride), padding, groups=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_channel_multipliers(kernel: int, stride: int, dtype: torch.dtype) -> None:
    for multiplier, bias in [(2, True), (3, False)]:
        geometry = Geometry((stride, stride), (1, 1, 1, 1), groups=3)
        check((2, 3, 8, 17), kernel, geometry, dtype, multiplier, bias)


def test_shapes_that_take_the_general_way() -> None:
    check((2, 3, 9, 17), 3, Geometry((2, 1), (1, 1, 1, 1), groups=3))
    check((2, 3, 9, 17), 3, Geometry((3, 3), (1, 1, 1, 1), groups=3))
    check((2, 3, 9, 17), 3, Geometry(padding=(2, 2, 2, 2), dilation=(2, 2), groups=3))
    check((2, 3, 9, 17), 4, Geometry(groups=3))


@pytest.mark.parametrize("images", [0, 1, 7, 8, 9, 20])
def test_batches_around_the_chunks_of_the_weight_gradient(images: int) -> None:
    tensors = [torch.randn(images, 2, 6, 5), torch.randn(2, 1, 3, 3), torch.randn(2)]
    results = []
    for function in (F.conv2d, native.conv2d):
        inputs = [t.double().requires_grad_() for t in tensors]
        output = function(*inputs, padding=1, groups=2)
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("size", [(4, 3), (5, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradcheck(kernel: int, stride: int, size: tuple[int, int]) -> None:
    image = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *tensors: F.conv2d(*tensors, stride=stride, padding=2, groups=2), (image, weight, bias)
    )


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [(37, 33, 24, 5), (19, 16, 29, 35)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_threads_give_the_same_bits(kernel: int, stride: int, shape: tuple[int, int, int, int]) -> None:
    tensors = [torch.randn(shape), torch.randn(shape[1], 1, kernel, kernel), torch.randn(shape[1])]

    def results(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        inputs = [t.detach().requires_grad_() for t in tensors]
        output = F.conv2d(*inputs, stride=stride, padding=kernel // 2, groups=shape[1])
        return [output.detach(), *torch.autograd.grad(output, inputs, output.detach())]

    serial = results(1)
    for threads in (2, 3, 5):
        assert all(torch.equal(a, b) for a, b in zip(results(threads), serial, strict=True))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("size", [(9, 17), (8, 5)])
def test_nan_stays_in_its_windows(size: tuple[int, int], kernel: int, stride: int) -> None:
    """In the output, and in each gradient, as in native torch."""
    arguments = {"stride": stride, "groups": 2}
    for place in [(0, 0), (size[0] - 1, size[1] - 1), (4, 2)]:
        image, weight = torch.randn(3, 2, *size), torch.randn(2, 1, kernel, kernel)
        image[1, 1, place[0], place[1]] = torch.nan
        found = []
        for function in (F.conv2d, native.conv2d):
            inputs = [t.clone().requires_grad_() for t in (image, weight)]
            output = function(*inputs, **arguments)
            found.append([output, *torch.autograd.grad(output, inputs, torch.ones_like(output))])
        for actual, expected in zip(*found, strict=True):
            assert torch.equal(actual.isnan(), expected.isnan())


def test_pointwise_weight_gradient() -> None:
    """1x1 over many channels reads the planes of the image as they lie."""
    for in_channels, out_channels, height, width in [(64, 64, 24, 5), (33, 65, 7, 9), (65, 17, 1, 1)]:
        case = ((3, in_channels, height, width), (out_channels, in_channels, 1, 1), Geometry(), True)
        for dtype in DTYPES:
            check_against_reference(ConvCase(*case, dtype, "contiguous", 0))
