"""max_pool2d against the float64 reference and torch: maxima, positions, gradients, NaN, -inf, ties."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as native
from compare import DTYPES, assert_same, assert_sums_close, exact
from hypothesis import given
from strategies import LAYOUTS, SIZES, PoolCase, laid_out, normal, pool_cases
from torch import Tensor

import lenet_ext.functional as F

operators = torch.ops.lenet_ext


def check(image: Tensor, arguments: tuple, layout: str = "contiguous") -> None:
    """Maxima and positions equal the reference's exactly; the gradient is its scattered sum."""
    image = image.detach().requires_grad_()
    output, indices = F.max_pool2d(image, *arguments, return_indices=True)
    maxima, positions = reference.max_pool2d(exact(image), *arguments)
    assert output.dtype == image.dtype
    assert indices.dtype == torch.int64
    np.testing.assert_array_equal(exact(output), maxima)
    np.testing.assert_array_equal(indices.numpy(), positions)
    assert torch.equal(F.max_pool2d(image.detach(), *arguments).isnan(), output.isnan())

    grad_output = laid_out(normal(tuple(output.shape), image.dtype, 7), layout)
    (grad,) = torch.autograd.grad(output, image, grad_output)
    size = image.shape[2:]
    expected = reference.max_pool2d_input_grad(exact(grad_output), positions, size)
    magnitude = reference.max_pool2d_input_grad(abs(exact(grad_output)), positions, size)
    assert_sums_close(grad, expected, magnitude, arguments[0][0] * arguments[0][1], layout == "expanded")


@given(pool_cases())
def test_matches_reference(case: PoolCase) -> None:
    check(case.input(), case.arguments(), case.layout)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("width", SIZES)
def test_windows_of_2x2(width: int, layout: str) -> None:
    """The path of its own, for every tail of a row, of an even and an odd input, and of the channels."""
    for extra, channels, dtype in [(0, 3, torch.float32), (1, 17, torch.float32), (1, 2, torch.float64)]:
        image = torch.randn(2, channels, 5, 2 * width + extra).to(dtype)
        check(laid_out(image, layout), ((2, 2), (2, 2), (0, 0), (1, 1), False), layout)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", SIZES)
@pytest.mark.parametrize("kernel", [2, 3])
def test_channels(kernel: int, channels: int, layout: str) -> None:
    image = torch.randn(1, channels, 6, 7)
    check(laid_out(image, layout), ((kernel,) * 2, (2, 2), (1, 1), (1, 1), True), layout)


@pytest.mark.parametrize("kernel", [(16, 16), (17, 16), (1, 300)])
def test_windows_of_more_taps_than_a_byte_counts(kernel: tuple[int, int]) -> None:
    for last in (False, True):
        image = torch.randn(1, 2, kernel[0] + 3, kernel[1] + 5)
        if last:
            image[..., kernel[0] - 1, kernel[1] - 1] = 100.0
        check(image, (kernel, (2, 3), (0, 0), (1, 1), False))


@given(pool_cases())
def test_matches_native_torch(case: PoolCase) -> None:
    """Bitwise: values, positions, gradients, also with NaN and -inf sprinkled in."""
    image = case.input().contiguous()
    generator = torch.Generator().manual_seed(case.seed)
    sprinkle = torch.rand(image.shape, generator=generator)
    image = image.masked_fill(sprinkle < 0.1, torch.nan).masked_fill(sprinkle > 0.5, -torch.inf)
    results = []
    for function in (F.max_pool2d, native.max_pool2d):
        x = image.clone().requires_grad_()
        output, indices = function(x, *case.arguments(), return_indices=True)
        weights = torch.arange(output.numel()).reshape(output.shape).to(case.dtype) % 7
        results.append((output, indices, *torch.autograd.grad(output, x, weights)))
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: torch.dtype, layout: str) -> None:
    """Each kind of window in every lane: all -inf, one NaN, several NaN, ties, +inf, -0.0 and 0.0."""
    nan, inf = torch.nan, torch.inf
    windows = torch.tensor(
        [
            [-inf, -inf, -inf, -inf],
            [nan, 1, 2, 3],
            [1, nan, 2, 3],
            [1, 2, 3, nan],
            [nan, inf, nan, inf],
            [nan, nan, nan, nan],
            [1, 1, 1, 1],
            [0, 1, 1, 0],
            [inf, inf, 0, inf],
            [-0.0, 0.0, -0.0, 0.0],
            [-inf, nan, -inf, -inf],
            [-inf, -inf, -inf, -5],
        ],
        dtype=dtype,
    )
    for shift in range(len(windows)):
        rows = windows.roll(shift, 0).repeat(3, 1).reshape(36, 2, 2)
        image = rows.permute(1, 0, 2).reshape(1, 1, 2, 72).repeat(1, 9, 1, 1)
        image = laid_out(image, layout)
        ours = F.max_pool2d(image, 2, return_indices=True)
        theirs = native.max_pool2d(image, 2, return_indices=True)
        assert_same(ours[0], theirs[0])
        assert_same(ours[1], theirs[1])
        assert_same(F.max_pool2d(image, 2), theirs[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format(layout: str) -> None:
    image = laid_out(torch.randn(2, 3, 8, 8), layout).requires_grad_()
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    output, indices = F.max_pool2d(image, 2, return_indices=True)
    assert output.is_contiguous(memory_format=expected)
    assert indices.is_contiguous(memory_format=expected)
    (grad,) = torch.autograd.grad(output, image, torch.randn(2, 3, 4, 4).to(memory_format=expected))
    assert grad.is_contiguous(memory_format=expected)


def test_expanded_gradient_and_overlapping_windows() -> None:
    """The gradient of .sum() has stride 0; where windows overlap, a pixel may win several times."""
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(F.max_pool2d(image, 3, 1).sum(), image)
    (theirs,) = torch.autograd.grad(native.max_pool2d(image, 3, 1).sum(), image)
    assert theirs.max() > 1
    assert_same(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (3, 9, 7)])
@pytest.mark.parametrize("return_indices", [False, True])
def test_empty_batches_and_unbatched_input(shape: tuple[int, ...], return_indices: bool) -> None:
    results = []
    image = torch.randn(shape)
    for function in (F.max_pool2d, native.max_pool2d):
        x = image.clone().requires_grad_()
        outputs = function(x, 2, return_indices=return_indices)
        outputs = outputs if return_indices else (outputs,)
        results.append((*outputs, *torch.autograd.grad(outputs[0].sum(), x)))
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("stride", [None, 2, (2,), [1, 2], []])
def test_forms_of_arguments(stride) -> None:
    image = torch.randn(1, 2, 9, 10)
    ours = F.max_pool2d(image, [3, 2], stride, padding=(1, 1), ceil_mode=True)
    assert_same(ours, native.max_pool2d(image, [3, 2], stride, padding=(1, 1), ceil_mode=True))


def test_windows_without_a_pixel() -> None:
    """With dilation a window can lie in the padding alone: its maximum is -inf, as in torch."""
    image = torch.randn(1, 1, 2, 2)
    ours = F.max_pool2d(image, 2, padding=1, dilation=3)
    assert_same(ours, native.max_pool2d(image, 2, padding=1, dilation=3))
