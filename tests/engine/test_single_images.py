"""The fused engine where a tile holds a single image, whose weight gradients are sums of one term."""

from __future__ import annotations

import copy

import pytest
import torch

import lenet_ext


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_training_step(batch: int) -> None:
    """Three steps are as torch's: the gradients of a stage are added up over the tiles."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 5 * 5, 37),
        torch.nn.ReLU(),
        torch.nn.Linear(37, 5),
    ).double()
    twin = copy.deepcopy(model)
    images, targets = torch.randn(batch, 2, 12, 12, dtype=torch.float64), torch.arange(batch) % 5
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), lr=0.1, momentum=0.5)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(images), targets)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(images, targets), loss.detach())
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
