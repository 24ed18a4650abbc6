"""conv_transpose2d of the engine: every argument, beside native torch in float64."""

from __future__ import annotations

import random

import pytest
import torch
from stages import check, engine_pass, one

from lenet_ext.engine.layers import Activation, ConvTranspose2d

# Sums of up to some hundred products of either sign, and Winograd's method in the gradient.
TOLERANCES = {torch.float32: 8e-6, torch.float64: 1e-13}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conv_transpose2d(dtype: torch.dtype) -> None:
    choose = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    checked = 0
    for _ in range(60):
        groups, has_bias = choose.choice([1, 1, 1, 2, 3]), choose.random() < 0.7
        kernel = choose.choice([(2, 2), (3, 3), (4, 4), (choose.randint(1, 5), choose.randint(1, 5))])
        stride = choose.choice([(1, 1), (2, 2), (choose.randint(1, 4), choose.randint(1, 4))])
        dilation = choose.choice([(1, 1), (1, 1), (choose.randint(1, 3), choose.randint(1, 3))])
        padding = (choose.randint(0, 2), choose.randint(0, 2))
        extra = [choose.randrange(max(stride[i], dilation[i])) for i in range(2)]
        layer = ConvTranspose2d(stride, padding, (extra[0], extra[1]), dilation, groups)
        channels, group_out = groups * choose.randint(1, 6), choose.randint(1, 9)
        shape = (choose.choice([1, 6, 20]), channels, choose.randint(1, 8), choose.randint(1, 19))
        x = torch.randn(shape, generator=generator, dtype=dtype)
        weight = torch.randn(channels, group_out, *kernel, generator=generator, dtype=dtype)
        bias = torch.randn(groups * group_out, generator=generator, dtype=dtype)
        parameters = [weight, bias] if has_bias else [weight]
        network = one(layer, Activation("relu"), parameters=len(parameters))
        try:
            layer.apply(x.double(), *(parameter.double() for parameter in parameters))
        except RuntimeError:  # nothing is left of the image
            with pytest.raises(RuntimeError, match="empty"):
                engine_pass(network, x, parameters)
            continue
        check(network, x, parameters, tolerance=TOLERANCES[dtype])
        checked += 1
    assert checked > 40


def test_empty_batch() -> None:
    network = one(ConvTranspose2d((2, 2), (0, 0), (0, 0), (1, 1), 1), parameters=1)
    results = engine_pass(network, torch.zeros(0, 3, 4, 4), [torch.ones(3, 2, 2, 2)])
    assert results.outputs[0].shape == (0, 2, 8, 8)
    assert torch.equal(results.grad_parameters[0], torch.zeros(3, 2, 2, 2))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ConvTranspose2d((2, 2), (0, 0), (2, 0), (1, 1), 1), "output_padding"),
        (ConvTranspose2d((0, 2), (0, 0), (0, 0), (1, 1), 1), "stride"),
        (ConvTranspose2d((2, 2), (-1, 0), (0, 0), (1, 1), 1), "padding"),
        (ConvTranspose2d((1, 1), (4, 0), (0, 0), (1, 1), 1), "empty"),
        (ConvTranspose2d((1, 1), (0, 0), (0, 0), (1, 1), 2), "groups|channels"),
    ],
)
def test_refused(layer: ConvTranspose2d, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        engine_pass(one(layer, parameters=1), torch.zeros(2, 3, 4, 4), [torch.ones(3, 2, 2, 2)])
