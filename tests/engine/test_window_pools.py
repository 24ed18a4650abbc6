"""avg_pool2d and the adaptive pools of the engine: every argument, sizes around those of vectors."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from stages import check, engine_pass, one
from torch import Tensor

from lenet_ext.engine.layers import Activation, AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, Layer

DTYPES = [torch.float32, torch.float64]
SIZES = [(1, 1), (2, 2), (5, 7), (8, 16), (17, 15), (28, 28), (3, 33)]


def images(batch: int, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, generator=generator, dtype=dtype)


def some_pool(choose: random.Random) -> AvgPool2d:
    kernel = choose.choice([(2, 2), (3, 3), (choose.randint(1, 6), choose.randint(1, 6))])
    stride = choose.choice([(1, 1), (2, 2), kernel, (choose.randint(1, 5), choose.randint(1, 5))])
    padding = choose.choice([(0, 0), (choose.randint(0, kernel[0] // 2), choose.randint(0, kernel[1] // 2))])
    ceil_mode, count_include_pad = choose.random() < 0.5, choose.random() < 0.5
    return AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, choose.choice([0, 0, 3]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_avg_pool2d(dtype: torch.dtype) -> None:
    choose = random.Random(2)
    checked = 0
    for _ in range(150):
        layer = some_pool(choose)
        x = images(choose.choice([1, 3]), choose.choice([1, 3]), choose.choice(SIZES), dtype)
        try:
            layer.apply(x)
        except RuntimeError:  # the kernel is larger than the image
            with pytest.raises(RuntimeError, match="kernel"):
                engine_pass(one(layer), x)
            continue
        check(one(layer), x)
        checked += 1
    assert checked > 90


def test_windows_in_the_padding_alone() -> None:
    x = images(1, 2, (1, 1), torch.float32)
    for count_include_pad, divisor in itertools.product([False, True], [0, 3]):
        check(one(AvgPool2d((4, 4), (3, 3), (2, 2), True, count_include_pad, divisor)), x)


@pytest.mark.parametrize("kind", [AdaptiveAvgPool2d, AdaptiveMaxPool2d])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adaptive(dtype: torch.dtype, kind: type[AdaptiveAvgPool2d | AdaptiveMaxPool2d]) -> None:
    for size in SIZES:
        for output_size in [(1, 1), (2, 3), (7, 7), size, (max(size[0] // 2, 1), 1), (2 * size[0], 4)]:
            check(one(kind(output_size)), images(3, 2, size, dtype))


def test_with_an_activation_over_many_tiles() -> None:
    pools: list[Layer] = [
        AvgPool2d((2, 2), (2, 2), (0, 0), False, True, 0),
        AdaptiveAvgPool2d((1, 1)),
        AdaptiveMaxPool2d((3, 2)),
    ]
    for pool in pools:
        check(one(pool, Activation("relu")), images(70, 3, (6, 10), torch.float32))
        assert engine_pass(one(pool), images(0, 3, (6, 10), torch.float32)).grad_images.shape[0] == 0


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (16, 17), (33, 5)])
@pytest.mark.parametrize("output_size", [(1, 1), (2, 3)])
def test_maxima_among_equals_and_nans(size: tuple[int, int], output_size: tuple[int, int]) -> None:
    x = images(2, 3, size, torch.float32)
    some = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.1
    nan, least = x.masked_fill(some, torch.nan), torch.full_like(x, -torch.inf)
    for values in (x.round(), torch.zeros_like(x), nan, least, least.masked_fill(some, torch.nan)):
        expected_input = values.clone().requires_grad_()
        expected = F.adaptive_max_pool2d(expected_input, output_size)
        expected.backward(torch.ones_like(expected))
        actual = engine_pass(one(AdaptiveMaxPool2d(output_size)), values)
        torch.testing.assert_close(actual.outputs[0], expected.detach(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(actual.grad_images, expected_input.grad, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (AvgPool2d((2, 2), (0, 1), (0, 0), False, True, 0), "stride"),
        (AvgPool2d((2, 2), (2, 2), (2, 0), False, True, 0), "padding"),
        (AvgPool2d((9, 2), (2, 2), (0, 0), False, True, 0), "kernel"),
        (AdaptiveAvgPool2d((-1, 2)), "output"),
        (AdaptiveMaxPool2d((-1, 2)), "output"),
    ],
)
def test_refused(layer: Layer, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        engine_pass(one(layer), images(1, 2, (5, 7), torch.float32))
