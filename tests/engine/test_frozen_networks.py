"""Fused networks whose parameters are frozen: the gradient of the images alone, beside native torch."""

from __future__ import annotations

import pytest
import torch
from test_wide_layers import NETWORKS, make
from torch import nn

import lenet_ext


def narrow() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = (nn.Conv2d(2, 9, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 5))
    return nn.Sequential(*layers), (2, 10, 10)


@pytest.mark.parametrize("batch", [1, 3, 70])
@pytest.mark.parametrize("network", [*NETWORKS, narrow])
def test_gradient_of_the_images(network, batch: int) -> None:
    model, images = make(network, batch, torch.float64)
    fused = lenet_ext.fuse(model.requires_grad_(False), images)
    images.requires_grad_()
    slope = torch.randn_like(model(images))
    ours, theirs = (torch.autograd.grad(function(images), images, slope)[0] for function in (fused, model))
    torch.testing.assert_close(ours, theirs)
