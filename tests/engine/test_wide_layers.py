"""The fused engine with a linear layer of over 512 K weights, which takes the whole batch at once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lenet_ext

WIDE = 729  # squared, more than 512 K


def with_body() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = (nn.Conv2d(2, 9, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 5)), (2, 18, 18)


def without_body() -> tuple[nn.Sequential, tuple[int, ...]]:
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDE, WIDE, bias=False), nn.ReLU()), (1, 27, 27)


NETWORKS = [with_body, without_body]


def make(network, batch: int, dtype: torch.dtype) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model, shape = network()
    return model.to(dtype), torch.randn(batch, *shape).to(dtype)


@pytest.mark.parametrize("batch", [0, 1, 3, 70])
@pytest.mark.parametrize("network", NETWORKS)
def test_output_and_gradients(network, batch: int) -> None:
    model, images = make(network, batch, torch.float64)
    fused = lenet_ext.fuse(model, torch.zeros(2, *images.shape[1:], dtype=images.dtype))
    images.requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(fused(images), model(images))
    slope = torch.randn_like(model(images))
    for wanted in ([images, *model.parameters()], list(model.parameters()), [images]):
        ours = torch.autograd.grad(fused(images), wanted, slope)
        theirs = torch.autograd.grad(model(images), wanted, slope)
        for actual, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [11, 12, 70, 200])
@pytest.mark.parametrize("network", NETWORKS)
def test_frozen_weights_give_the_same_bits(network, batch: int, dtype: torch.dtype) -> None:
    """They are packed once, for passes of enough rows."""
    model, images = make(network, batch, dtype)
    fused = lenet_ext.fuse(model, images[:2]).eval()
    frozen = fused.freeze()
    with torch.no_grad():
        for rows in (batch, 1, batch):
            assert torch.equal(frozen(images[:rows]), fused(images[:rows]))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("batch", [1, 3, 70])
@pytest.mark.parametrize("network", NETWORKS)
def test_training_step(network, batch: int, loss: str) -> None:
    model, images = make(network, batch, torch.float64)
    twin = copy.deepcopy(model)
    targets = torch.arange(batch) % 5 if loss == "cross_entropy" else torch.randn_like(model(images))
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), loss=loss, **options)
    optimizer = torch.optim.SGD(twin.parameters(), **options)
    for _ in range(3):
        optimizer.zero_grad()
        criterion = nn.functional.cross_entropy if loss == "cross_entropy" else nn.functional.mse_loss
        expected = criterion(twin(images), targets)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(step(images, targets), expected.detach())
    for actual, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", NETWORKS)
def test_epoch_of_bytes_in_any_order(network) -> None:
    """Bytes are normalised wherever they are loaded, and taken in the order that is given."""
    model, images = make(network, 40, torch.float32)
    pixels = (images * 30 + 128).clamp(0, 255).to(torch.uint8)
    twin = copy.deepcopy(model)
    labels, order = torch.arange(40) % 5, torch.randperm(40)
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images, mean=0.5, std=0.25), lr=0.01, momentum=0.9)
    losses = step.epoch(pixels, labels, 16, order)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9)
    for part, loss in zip(order.split(16), losses, strict=True):
        optimizer.zero_grad()
        batch = (pixels[part].float() / 255 - 0.5) / 0.25
        expected = nn.functional.cross_entropy(twin(batch), labels[part])
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-4)
    for actual, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_threads_change_no_bit(network) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            model, images = make(network, 70, torch.float32)
            step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), lr=0.05)
            step(images, torch.arange(70) % 5)
            results.append([step(images, torch.arange(70) % 5), *model.parameters()])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_half_precision() -> None:
    model, images = make(with_body, 5, torch.bfloat16)
    exact = copy.deepcopy(model).double()
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), lr=0.1)
    loss = nn.functional.cross_entropy(exact(images.double()), torch.arange(5))
    torch.testing.assert_close(step(images, torch.arange(5)).double(), loss.detach(), rtol=2e-2, atol=2e-2)
