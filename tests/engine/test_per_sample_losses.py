"""per_sample_gradients of all losses, beside autograd in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from per_sample import assert_gradients, autograd_gradients, batch, network
from torch import nn

import lenet_ext
from lenet_ext import per_sample_gradients

CLASSES = {
    "cross entropy": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)),
    "weighted sum": nn.CrossEntropyLoss(
        weight=torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64), reduction="sum"
    ),
    "ignored": nn.CrossEntropyLoss(ignore_index=2, reduction="sum"),
}


@pytest.mark.parametrize("loss", CLASSES.values(), ids=CLASSES)
def test_losses_of_classes(loss: nn.CrossEntropyLoss) -> None:
    model, (x, targets) = network(), batch(19)
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets, loss)
    assert_gradients(actual, autograd_gradients(model, x, targets, loss), 1e-10)


def test_an_ignored_image_has_zeros() -> None:
    model, (x, targets) = network(), batch(19)
    loss = nn.CrossEntropyLoss(ignore_index=2)
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets, loss)
    for gradient in actual.values():
        assert gradient.isfinite().all()
        assert (gradient[targets == 2] == 0).all()
        assert gradient[targets != 2].flatten(1).abs().sum(1).min() > 0


def test_positions_and_soft_targets() -> None:
    """The mean is over the positions of an image; some are ignored."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 1)).double()
    x = torch.randn(18, 2, 5, 6, dtype=torch.float64)
    fused = lenet_ext.fuse(model, x[:1])
    classes = torch.randint(3, (18, 3, 4))
    loss = nn.CrossEntropyLoss(ignore_index=0, weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert_gradients(
        per_sample_gradients(fused, x, classes, loss), autograd_gradients(model, x, classes, loss), 1e-10
    )
    soft = torch.rand(18, 3, 3, 4, dtype=torch.float64).softmax(1)
    assert_gradients(
        per_sample_gradients(fused, x, soft), autograd_gradients(model, x, soft, F.cross_entropy), 1e-10
    )


ELEMENTS = {
    "mse": nn.MSELoss(),
    "l1 sum": nn.L1Loss(reduction="sum"),
    "smooth l1": nn.SmoothL1Loss(beta=0.3),
    "huber": nn.HuberLoss(delta=0.4),
    "bce": nn.BCEWithLogitsLoss(
        weight=torch.rand(5, dtype=torch.float64), pos_weight=torch.rand(5, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("loss", ELEMENTS.values(), ids=ELEMENTS)
def test_losses_of_elements(loss: nn.Module) -> None:
    model, (x, _) = network(), batch(18)
    targets = torch.rand(18, 5, dtype=torch.float64)
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets, loss)
    assert_gradients(actual, autograd_gradients(model, x, targets, loss), 1e-10)


def test_weights_of_each_element_of_a_batch() -> None:
    """Each image has its own row of them."""
    model, (x, _) = network(), batch(18)
    weight, targets = torch.rand(18, 5, dtype=torch.float64), torch.rand(18, 5, dtype=torch.float64)
    loss = nn.BCEWithLogitsLoss(weight=weight, reduction="sum")
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets, loss)
    for i in (0, 7, 17):
        own = nn.BCEWithLogitsLoss(weight=weight[i : i + 1], reduction="sum")
        expected = autograd_gradients(model, x[i : i + 1], targets[i : i + 1], own)
        assert_gradients({name: g[i : i + 1] for name, g in actual.items()}, expected, 1e-10)
