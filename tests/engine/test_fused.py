"""The fused engine's numbers against native torch: forward, and the gradients of input and parameters."""

from __future__ import annotations

import on_device
import pytest
import torch
from chains import Chain, assert_near, captured, chains, fused_without_export, margin, results
from hypothesis import assume, given, settings
from strategies import LAYOUTS, laid_out
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.capture import capture

# Errors relative to the largest value of a tensor: sums of up to some thousand terms, through some layers.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def check(chain: Chain, dtype: torch.dtype) -> None:
    """Against native torch in float32, or in float64 if that is the dtype."""
    reference = torch.float64 if dtype == torch.float64 else torch.float32
    images = chain.images(dtype)
    model = chain.in_dtype(reference)
    expected = results(model, model, images.to(reference))
    chain.in_dtype(dtype)
    fused = fused_without_export(chain)
    for actual, wanted in zip(results(fused, fused, images), expected, strict=True):
        assert actual.dtype == dtype
        assert_near(actual, wanted, TOLERANCE[dtype])
    with torch.no_grad():
        assert_near(fused(images), expected[0], TOLERANCE[dtype])


@given(chains())
def test_float64(chain: Chain) -> None:
    check(chain, torch.float64)


@settings(max_examples=100)
@given(chains())
def test_float32(chain: Chain) -> None:
    assume(margin(chain.in_dtype(torch.float64), chain.images(torch.float32).double()) > 1e-5)
    check(chain, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=60)
@given(chain=chains())
def test_16_bit_types_are_computed_in_float32(chain: Chain, dtype: torch.dtype) -> None:
    assume(margin(chain.in_dtype(torch.float64), chain.images(dtype).double()) > 1e-5)
    check(chain, dtype)


@settings(max_examples=25)
@given(chains())
def test_fuse_reads_drawn_chains(chain: Chain) -> None:
    """What the other tests take a short cut to."""
    found, expected = capture(chain.model, chain.images(torch.float32)), captured(chain)
    assert (found.network, found.parameters) == (expected.network, expected.parameters)


@pytest.fixture
def lenet() -> nn.Module:
    return lenet_ext.LeNet(in_channels=2, image_size=20, layers=nn).double()


def fuse(model: nn.Module, **options: object) -> lenet_ext.FusedNet:
    example = torch.zeros(1, 2, 20, 20, dtype=next(model.parameters()).dtype)
    return lenet_ext.fuse(model, example, **options)


@pytest.mark.parametrize("batch", [1, 5, 33])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(lenet: nn.Module, layout: str, batch: int) -> None:
    images = laid_out(torch.randn(batch, 2, 20, 20, dtype=torch.float64), layout)
    fused = fuse(lenet)
    for actual, expected in zip(results(fused, fused, images), results(lenet, lenet, images), strict=True):
        assert_near(actual, expected, 1e-12)
        if layout == "expanded":
            break  # its equal pixels make equal maxima, of which rounding chooses one


def test_channels_last_parameters(lenet: nn.Module) -> None:
    images = torch.randn(5, 2, 20, 20, dtype=torch.float64)
    expected = results(lenet, lenet, images)
    fused = fuse(lenet.to(memory_format=torch.channels_last))
    assert not fused.conv1.weight.is_contiguous()
    for actual, wanted in zip(results(fused, fused, images), expected, strict=True):
        assert_near(actual, wanted, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [0, 1, 3, 70])
@pytest.mark.parametrize(("mean", "std"), [(0.4, 0.2), ([0.5, 0.1], [0.3, 0.7]), ([0.5], (0.3, 0.7))])
def test_bytes(mean: object, std: object, batch: int, dtype: torch.dtype) -> None:
    """uint8 images give what normalised ones give; the scale is a float32 number in any case."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(405, 7))
    model = model.to(torch.bfloat16).to(wide)
    images = torch.randint(256, (batch, 2, 20, 20), dtype=torch.uint8)
    means, stds = (torch.tensor(value, dtype=wide).view(-1, 1, 1) for value in (mean, std))
    expected = model((images.to(wide) / 255 - means) / stds)
    weights = torch.randn(batch, 7).to(dtype)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(expected, parameters, weights.to(wide))
    fused = fuse(model.to(dtype), mean=mean, std=std)
    output = fused(images)
    assert output.dtype == dtype
    assert_near(output, expected, 1e-5)
    for actual, wanted in zip(torch.autograd.grad(output, parameters, weights), grads, strict=True):
        assert_near(actual, wanted, 1e-5)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(fused(strided), output)
    assert torch.equal(fused(laid_out(images.float(), "sliced").to(torch.uint8)), output)


def test_images_that_are_normalized_already_are_refused(lenet: nn.Module) -> None:
    """Nobody could tell them from images in [0, 1] that are not."""
    normalized = torch.rand(3, 2, 20, 20, dtype=torch.float64)
    images = (normalized * 255).to(torch.uint8)
    of_bytes, of_floats = fuse(lenet, mean=0.5, std=0.1), fuse(lenet)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"must be uint8, since .* without mean and std"):
            of_bytes(normalized)
        with pytest.raises(RuntimeError, match="uint8 images need mean and std"):
            of_floats(images)
    of_bytes(images), of_floats(normalized)
    with pytest.raises(RuntimeError, match=r"must be uint8, since .* got torch.float64"):
        of_bytes(normalized)  # of a shape that is known
    with pytest.raises(RuntimeError, match="uint8 images need mean and std"):
        of_floats(images)


def test_nan_and_infinity_pass_through(lenet: nn.Module) -> None:
    images = torch.randn(6, 2, 20, 20, dtype=torch.float64)
    for image, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        images[image, 1, 7, 9] = value
    torch.testing.assert_close(fuse(lenet)(images), lenet(images), equal_nan=True)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_relu_before_windows_that_hold_no_pixel(ceil_mode: bool) -> None:
    """Their maximum is -inf, which a relu must not see if it comes first."""
    pool = nn.MaxPool2d(2, 1, 1, dilation=3, ceil_mode=ceil_mode)
    for model in (nn.Sequential(nn.ReLU(), pool), nn.Sequential(pool, nn.ReLU())):
        images = torch.randn(2, 3, 2, 9)
        assert (model[0](images) == -torch.inf).any() == (model[0] is pool)
        assert torch.equal(lenet_ext.fuse(model, images)(images), model(images))


def test_a_module_used_twice() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 2)).double()
    images = torch.randn(5, 6, dtype=torch.float64)
    fused = lenet_ext.fuse(model, images)
    if on_device.cuda_kernels:
        with pytest.raises(RuntimeError, match="on CUDA a parameter may be used once"):
            fused(images)
        return
    for actual, expected in zip(results(fused, fused, images), results(model, model, images), strict=True):
        assert_near(actual, expected, 1e-12)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 7, 131])
def test_threads(batch: int, dtype: torch.dtype) -> None:
    """Bitwise the same for every number of threads, and from call to call."""
    model = lenet_ext.LeNet().to(dtype)
    images = torch.randn(batch, 3, 32, 32).to(dtype)
    fused = lenet_ext.fuse(model, images)
    serial: list[Tensor] = []
    for threads in (1, 2, 3, 5, 1):
        torch.set_num_threads(threads)
        parallel = results(fused, fused, images)
        serial = serial or parallel
        assert all(map(torch.equal, parallel, serial)), f"{threads} threads"


def test_deterministic_algorithms(lenet: nn.Module) -> None:
    """No operator is refused, and memory that torch fills with NaN is not read."""
    fused, images = fuse(lenet), torch.randn(5, 2, 20, 20, dtype=torch.float64)
    expected = results(fused, fused, images)
    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, results(fused, fused, images), expected))
    finally:
        torch.use_deterministic_algorithms(False)
