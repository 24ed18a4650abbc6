"""F(4x4, 3x3), taken for 3x3 convolutions with stride 1 from 48 input and 32 output channels on.

A tile is 4x4 outputs. Tiles are done in blocks, of several images or of some rows of tiles of one; an output
that is not exact enough is summed directly, alone.
"""

from __future__ import annotations

import copy

import pytest
import torch
from compare import relative_error
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as F

UNIT = 2.0**-24  # of rounding in float32


def layer(channels: int = 48, out_channels: int = 32, padding: int | tuple[int, int] = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, out_channels, 3, padding=padding)


def fused(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = lenet_ext.fuse(model, images)(images)
    assert isinstance(output, Tensor)
    return output


def errors(conv: nn.Conv2d, images: Tensor, output: Tensor) -> Tensor:
    """Relative to the sum of the magnitudes of an output's own products."""
    weight, bias = conv.weight.detach().double(), conv.bias.detach().double()
    exact = nn.functional.conv2d(images.double(), weight, bias, padding=conv.padding)
    sizes = nn.functional.conv2d(images.double().abs(), weight.abs(), bias.abs(), padding=conv.padding)
    return (output - exact).abs() / sizes


@pytest.mark.parametrize(("channels", "taken"), [(48, True), (47, False)])
def test_it_is_taken(channels: int, taken: bool) -> None:
    """By the engine and by the layer, which round alike.

    Along the height alone an output is rounded in the same way wherever it is in its row, in tiles of four
    columns not.
    """
    conv, images = layer(channels, padding=0), torch.randn(2, channels, 18, 20)
    output = fused(nn.Sequential(conv), images)
    assert torch.equal(output, F.conv2d(images, conv.weight, conv.bias))
    moved = fused(nn.Sequential(conv), images[..., 1:].contiguous())
    assert torch.equal(moved, output[..., 1:]) is not taken
    direct = F.conv2d(images.to(memory_format=torch.channels_last), conv.weight, conv.bias)
    assert not torch.equal(output, direct)
    assert errors(conv, images, output).max() < 25 * UNIT


@pytest.mark.parametrize("size", [(40, 41), (9, 130), (130, 5), (8, 8), (3, 4), (1, 6)], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 7, 30])
def test_blocks(batch: int, size: tuple[int, int]) -> None:
    """Images that are cut into blocks, and blocks of several images, the last of them smaller."""
    conv = layer(50, 35)
    images = torch.randn(batch, 50, *size)
    for model in (nn.Sequential(conv), nn.Sequential(conv, nn.ReLU())):
        output = fused(model, images)
        expected = model.double()(images.double()).detach()
        model.float()
        assert relative_error(output, expected) < 2e-6
        torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5)


def test_images_do_not_depend_on_each_other() -> None:
    """Neither on how many there are nor on what else is in the batch."""
    conv, images = layer(64, 64), torch.randn(13, 64, 8, 8)
    model = nn.Sequential(conv, nn.ReLU())
    frozen = lenet_ext.fuse(model, images).freeze()
    output = frozen(images)
    for count in (1, 2, 12):
        assert torch.equal(frozen(images[:count]), output[:count])
    spoiled = images.clone()
    spoiled[3] = torch.nan
    others = [i for i in range(13) if i != 3]
    assert torch.equal(frozen(spoiled)[others], output[others])


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30, 1e6])
def test_refused_outputs(value: float, pooled: bool) -> None:
    """Wherever in a tile a value lies that the method cannot bear, only the outputs that read it differ."""
    conv = layer()
    images = torch.randn(36, 48, 6, 6)
    model = nn.Sequential(conv, nn.MaxPool2d(2)) if pooled else nn.Sequential(conv)
    places = torch.arange(36)
    plain = fused(model, images)
    images[places, 5, places // 6, places % 6] = value
    output, expected = fused(model, images), model(images).detach()
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    marks = torch.zeros(36, 1, 6, 6)
    marks[places, 0, places // 6, places % 6] = 1
    read = nn.functional.max_pool2d(marks, 3, 1, 1)
    if pooled:
        read = nn.functional.max_pool2d(read, 2)
    unread = (read == 0).expand_as(output)
    torch.testing.assert_close(output[unread], plain[unread], rtol=0, atol=2e-5)


def test_pool_with_refused_outputs_in_training() -> None:
    """The places of the maxima, some of them of outputs that were summed directly."""
    torch.manual_seed(0)
    model = nn.Sequential(layer(48, 32, (1, 2)), nn.MaxPool2d(2), nn.Tanh())
    images = torch.randn(5, 48, 11, 13)
    images[:, 7, 5, 5] = 1e4
    twin = copy.deepcopy(model).double()
    leaf, wide = images.clone().requires_grad_(), images.double().requires_grad_()
    network = lenet_ext.fuse(model, images)
    output, expected = network(leaf), twin(wide)
    assert relative_error(output.detach(), expected.detach()) < 1e-5
    slope = torch.randn(output.shape)
    grads = torch.autograd.grad(output, [leaf, *network.parameters()], slope)
    wanted = torch.autograd.grad(expected, [wide, *twin.parameters()], slope.double())
    for grad, want in zip(grads, wanted, strict=True):
        assert relative_error(grad, want) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(48, 70),
    out_channels=st.integers(32, 70),
    batch=st.integers(1, 9),
    size=st.tuples(st.integers(1, 21), st.integers(1, 21)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    pooled=st.booleans(),
    relu=st.booleans(),
    threads=st.integers(1, 2),
)
def test_drawn_shapes(
    channels: int,
    out_channels: int,
    batch: int,
    size: tuple[int, int],
    padding: tuple[int, int],
    pooled: bool,
    relu: bool,
    threads: int,
) -> None:
    assume(min(size[i] + 2 * padding[i] for i in range(2)) >= (4 if pooled else 3))
    conv = layer(channels, out_channels, padding)
    images = torch.randn(batch, channels, *size)
    images = images.relu() if relu else images
    model = nn.Sequential(conv, nn.MaxPool2d(2)) if pooled else nn.Sequential(conv)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        output = fused(model, images)
    finally:
        torch.set_num_threads(before)
    expected = model.double()(images.double()).detach()
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-5)
    assert relative_error(output, expected) < 2e-6
