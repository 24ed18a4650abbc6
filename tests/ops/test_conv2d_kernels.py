"""The kernels that conv2d takes for some sizes only, at sizes around the edges of their tiles."""

from __future__ import annotations

import itertools

import pytest
import torch
from compare import DTYPES
from conv2d_check import check_against_reference
from reference import Geometry
from strategies import ConvCase

LAYOUTS = ["contiguous", "channels_last"]


def check(
    image: tuple[int, int, int, int],
    weight: tuple[int, int, int, int],
    geometry: Geometry,
    dtype: torch.dtype,
    layout: str,
) -> None:
    check_against_reference(ConvCase(image, weight, geometry, True, dtype, layout, 0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [(1, 3), (2, 3), (3, 3), (1, 5), (4, 5), (5, 5)])
@pytest.mark.parametrize("out_channels", [15, 16, 17, 33])
def test_weight_gradient_by_kernel_rows(out_channels: int, kernel: tuple[int, int], layout: str) -> None:
    """Kernels of 3 and 5 columns with stride_w 1: rows of pixels around the steps of 4 and 5 pixels, numbers
    of kernel rows (channels x height) around a tile's, padding, row strides and dilation.
    """
    paddings = [(0, 0, 0, 0), (1, 2, 2, 1)]
    vertical = [(1, 1), (2, 1), (1, 2), (3, 2)]
    cases = itertools.product([1, 3, 9], paddings, vertical)
    for (in_channels, padding, (stride, dilation)), columns in zip(
        cases, itertools.cycle([1, 3, 4, 5, 6, 9, 10, 11]), strict=False
    ):
        height = (kernel[0] - 1) * dilation + 1 + 2 * stride
        width = max(columns + kernel[1] - 1 - padding[2] - padding[3], 1)
        geometry = Geometry((stride, 1), padding, (dilation, 1))
        check(
            (2, in_channels, height, width),
            (out_channels, in_channels, *kernel),
            geometry,
            torch.float32,
            layout,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out_channels", [31, 33, 64])
def test_strides_without_padding(out_channels: int, layout: str, dtype: torch.dtype) -> None:
    """Planes that are read where they lie: images of which several are one product, groups, dilation, rows
    and columns that no window reaches.
    """
    for image, kernel, stride, dilation, groups in (
        ((9, 4, 13, 12), (8, 8), (4, 4), (1, 1), 1),
        ((2, 6, 11, 10), (4, 4), (2, 2), (1, 1), 2),
        ((3, 3, 9, 15), (2, 7), (1, 1), (2, 1), 1),
        ((2, 2, 10, 17), (3, 5), (1, 2), (1, 2), 1),
    ):
        weight = (out_channels * groups, image[1] // groups, *kernel)
        check(image, weight, Geometry(stride, (0, 0, 0, 0), dilation, groups), dtype, layout)


def test_strides_without_padding_of_many_rows() -> None:
    """A window that is too large for the second-level cache."""
    check((1, 2, 261, 130), (32, 2, 2, 8), Geometry((2, 4)), torch.float32, "contiguous")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [3, 5])
def test_weight_gradient_by_kernel_rows_of_groups(kernel: int, layout: str, dtype: torch.dtype) -> None:
    for group_out, groups, pad in itertools.product([8, 16, 17], [1, 2, 3], [0, 1]):
        geometry = Geometry(padding=(pad,) * 4, groups=groups)
        check((3, 2 * groups, 6, 8), (group_out * groups, 2, kernel, kernel), geometry, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [(5, 5), (3, 3), (4, 2), (2, 7), (8, 1)])
@pytest.mark.parametrize("in_channels", [1, 2, 3, 6, 7, 8, 15])
def test_input_gradient_by_patches(in_channels: int, kernel: tuple[int, int], layout: str) -> None:
    """Few input channels with stride 1: patches of less than a vector, of one and of several, rows shorter
    and longer than a patch, padding up to more than the kernel, dilated rows.
    """
    paddings = [(0, 0, 0, 0), (2, 1, 1, 2), (kernel[0], kernel[0] + 1, kernel[1], kernel[1] + 1)]
    for (padding, dilation), extra in zip(
        itertools.product(paddings, [1, 2]), itertools.cycle([0, 1, 5, 12]), strict=False
    ):
        height = (kernel[0] - 1) * dilation + 3
        geometry = Geometry(padding=padding, dilation=(dilation, 1))
        image = (2, in_channels, height, kernel[1] + extra)
        check(image, (17, in_channels, *kernel), geometry, torch.float32, layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_input_gradient_by_patches_of_groups(layout: str, dtype: torch.dtype) -> None:
    for groups, in_channels, out_channels in itertools.product([1, 2, 3], [1, 5, 6], [8, 19]):
        image, weight = (2, groups * in_channels, 9, 10), (groups * out_channels, in_channels, 5, 5)
        check(image, weight, Geometry(padding=(1, 0, 2, 1), groups=groups), dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_input_gradient_by_patches_of_many_rows(layout: str) -> None:
    """More rows than a block, whose end lies within an image."""
    check((1, 3, 61, 13), (12, 3, 5, 5), Geometry(), torch.float32, layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_packing_of_columns_of_stride_2(padding: int, dtype: torch.dtype) -> None:
    """Rows of every length up to four vectors and one, of which every second value is taken."""
    for width in range(3, 34 if dtype == torch.float64 else 67):
        geometry = Geometry((2, 2), (padding,) * 4)
        check((1, 2, 4, width), (5, 2, 3, 3), geometry, dtype, "contiguous")
