"""conv2d against the float64 reference and native torch: values, gradients, layouts, arguments, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as native
from compare import DTYPES, assert_sums_close, exact
from conv2d_check import check_against_reference
from hypothesis import given
from reference import Geometry
from strategies import LAYOUTS, SIZES, ConvCase, conv_cases, laid_out, normal
from torch import Tensor

import lenet_ext.functional as F

operators = torch.ops.lenet_ext


@given(conv_cases())
def test_matches_reference(case: ConvCase) -> None:
    check_against_reference(case)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("width", SIZES)
def test_output_widths(width: int, kernel: int, layout: str) -> None:
    """Rows of every length around the vector widths, for the kernel sizes with paths of their own."""
    for channels, dtype in [((1, 6), torch.float32), ((3, 9), torch.float32), ((2, 5), torch.float64)]:
        image = (1, channels[0], kernel + 1, width + kernel - 1)
        weight = (channels[1], channels[0], kernel, kernel)
        check_against_reference(ConvCase(image, weight, Geometry(), True, dtype, layout, width))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("out_channels", SIZES)
@pytest.mark.parametrize("in_channels", [1, 4, 15, 16, 17])
def test_channels(in_channels: int, out_channels: int, layout: str) -> None:
    """Channel numbers around the vector widths, where channels are the lanes."""
    case = ConvCase(
        (2, in_channels, 5, 6), (out_channels, in_channels, 3, 3), Geometry(), True, torch.float32, layout, 1
    )
    check_against_reference(case)


SMALL_CNN_LAYERS = {
    "lenet conv1": ((2, 3, 32, 32), (6, 3, 5, 5), Geometry()),
    "lenet conv2": ((3, 6, 14, 14), (16, 6, 5, 5), Geometry()),
    "mnist": ((2, 1, 28, 28), (8, 1, 5, 5), Geometry(padding=(2, 2, 2, 2))),
    "3x3 same": ((1, 16, 14, 14), (32, 16, 3, 3), Geometry(padding=(1, 1, 1, 1))),
    "3x3 stride 2": ((2, 8, 15, 15), (16, 8, 3, 3), Geometry(stride=(2, 2), padding=(1, 1, 1, 1))),
    "7x7 stride 2": ((1, 3, 23, 21), (16, 3, 7, 7), Geometry(stride=(2, 2), padding=(3, 3, 3, 3))),
    "1x1": ((2, 33, 7, 9), (17, 33, 1, 1), Geometry()),
    "1x1 stride 2": ((2, 16, 7, 9), (8, 16, 1, 1), Geometry(stride=(2, 2))),
    "depthwise 3x3": ((2, 19, 9, 17), (19, 1, 3, 3), Geometry(padding=(1, 1, 1, 1), groups=19)),
    "depthwise 5x5 stride 2": ((1, 16, 11, 18), (16, 1, 5, 5), Geometry((2, 2), (2, 2, 2, 2), groups=16)),
    "depthwise multiplier": ((1, 8, 9, 9), (24, 1, 3, 3), Geometry(groups=8)),
    "grouped": ((2, 12, 8, 8), (18, 4, 3, 3), Geometry(padding=(1, 1, 1, 1), groups=3)),
    "dilated": ((1, 4, 17, 17), (7, 4, 3, 3), Geometry(padding=(2, 2, 2, 2), dilation=(2, 2))),
    "kernel as large as the image": ((4, 16, 5, 5), (33, 16, 5, 5), Geometry()),
    "kernel larger than the image": ((2, 3, 2, 3), (4, 3, 5, 5), Geometry(padding=(2, 2, 2, 2))),
    "wide kernel": ((1, 2, 3, 40), (5, 2, 1, 9), Geometry()),
    "padding beyond the kernel": ((1, 2, 4, 5), (3, 2, 3, 3), Geometry(padding=(4, 4, 5, 5))),
    "uneven padding": ((1, 2, 6, 7), (3, 2, 4, 2), Geometry(padding=(1, 2, 0, 1))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SMALL_CNN_LAYERS)
def test_layers_of_small_networks(name: str, layout: str, dtype: torch.dtype) -> None:
    image, weight, geometry = SMALL_CNN_LAYERS[name]
    check_against_reference(ConvCase(image, weight, geometry, True, dtype, layout, 0))


def symmetric(geometry: Geometry) -> dict[str, object]:
    """The arguments of torch's function, which pads both sides alike."""
    padding = (geometry.padding[0], geometry.padding[2])
    return {**geometry._asdict(), "padding": padding}


@given(conv_cases(dtypes=[torch.float32, torch.float64]))
def test_matches_native_torch(case: ConvCase) -> None:
    """Values, gradients and memory format of the public function."""
    image, weight, bias = (None if t is None else t.detach().requires_grad_() for t in case.tensors())
    geometry = case.geometry
    geometry = geometry._replace(padding=(*[max(geometry.padding[:2])] * 2, *[max(geometry.padding[2:])] * 2))
    tensors = [t for t in (image, weight, bias) if t is not None]
    ours = F.conv2d(image, weight, bias, **symmetric(geometry))
    theirs = native.conv2d(image, weight, bias, **symmetric(geometry))
    assert ours.dtype == theirs.dtype
    channels_last = image.is_contiguous(memory_format=torch.channels_last)
    if channels_last != image.is_contiguous():  # an image of one channel or one pixel is both
        assert ours.is_contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
    grad_output = normal(tuple(ours.shape), case.dtype, case.seed)
    ours_and_grads = [ours, *torch.autograd.grad(ours, tensors, grad_output)]
    theirs_and_grads = [theirs, *torch.autograd.grad(theirs, tensors, grad_output)]
    sizes = [weight[0].numel(), weight[:, 0].numel(), grad_output[:, 0].numel(), grad_output[:, 0].numel()]
    for actual, expected, terms in zip(ours_and_grads, theirs_and_grads, sizes, strict=False):
        # Both sum about normal(0, 1) * normal(0, 1), whose size is about 1: see compare.py for the bound.
        assert_sums_close(
            actual, exact(expected), np.full(actual.shape, 2.0 * terms + 2), terms, case.layout == "expanded"
        )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 2)])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_named_padding(padding: str, kernel: tuple[int, int], dilation) -> None:
    image, weight = (
        torch.randn(2, 2, 9, 11, dtype=torch.float64),
        torch.randn(3, 2, *kernel, dtype=torch.float64),
    )
    ours = F.conv2d(image, weight, padding=padding, dilation=dilation)
    torch.testing.assert_close(ours, native.conv2d(image, weight, padding=padding, dilation=dilation))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (0, 3, 5, 5), (3, 8, 8)])
def test_empty_batches_and_unbatched_input(shape: tuple[int, ...]) -> None:
    image, weight, bias = torch.randn(shape), torch.randn(4, 3, 5, 5), torch.randn(4)
    grads = {}
    for name, function in [("ours", F.conv2d), ("native", native.conv2d)]:
        tensors = [t.clone().requires_grad_() for t in (image, weight, bias)]
        output = function(*tensors)
        grads[name] = [output, *torch.autograd.grad(output.sum(), tensors)]
    for actual, expected in zip(grads["ours"], grads["native"], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("argument", ["input", "weight", "bias", "grad_output"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(argument: str, layout: str) -> None:
    """Any argument in any layout gives bitwise what its contiguous copy gives."""
    image, weight, bias = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3), torch.randn(8)[::2]
    tensors = {"input": image, "weight": weight, "bias": bias, "grad_output": torch.randn(2, 4, 7, 7)}
    if argument != "bias":
        tensors[argument] = laid_out(tensors[argument], layout)

    def results(tensors: dict[str, Tensor]) -> list[Tensor]:
        *inputs, grad_output = tensors.values()
        inputs = [t.detach().requires_grad_() for t in inputs]
        output = F.conv2d(*inputs)
        return [output, *torch.autograd.grad(output, inputs, grad_output)]

    copies = {name: t.contiguous() for name, t in tensors.items()}
    for actual, expected in zip(results(tensors), results(copies), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_nan_stays_in_its_windows(where: str, layout: str) -> None:
    """A NaN reaches the sums it belongs to and no others: not through spare lanes, nor across rows."""
    tensors = {"input": torch.randn(2, 3, 9, 17), "weight": torch.randn(7, 3, 3, 3)}
    if where == "input":
        tensors[where][0, 1, 4, 16] = torch.nan
        tensors[where][1, 2, 0, 0] = torch.inf
    else:
        tensors[where][3, 1, 2, 2] = torch.nan
    image, weight = (laid_out(t, layout).double() for t in tensors.values())
    # Whether 0 * NaN of a padding pixel and a weight is computed is a kernel's choice, also within torch.
    padding = 1 if where == "input" else 0
    for dtype in DTYPES:
        ours = F.conv2d(image.to(dtype), weight.to(dtype), padding=padding)
        expected = native.conv2d(image, weight, padding=padding)
        assert torch.equal(ours.isfinite(), expected.isfinite())
        assert torch.equal(ours.isnan(), expected.isnan())


def test_one_element_sequences_and_lists() -> None:
    image, weight = torch.randn(1, 1, 7, 7), torch.randn(1, 1, 3, 3)
    ours = F.conv2d(image, weight, stride=[2], padding=[1, 1], dilation=(1,))
    torch.testing.assert_close(ours, native.conv2d(image, weight, stride=[2], padding=[1, 1], dilation=(1,)))
    assert torch.equal(ours, F.conv2d(image, weight, stride=np.int64(2), padding=1))
