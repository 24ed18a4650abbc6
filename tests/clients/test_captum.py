"""Captum: attributions to the pixels and to a layer, of our layers and of torch.nn's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, LayerGradCam, Saliency
from captum.attr._core import deep_lift
from torch import Tensor
from twins import images, twins

import lenet_ext
import lenet_ext.nn as lnn

Model = torch.nn.Sequential
METHODS: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "integrated gradients": lambda m, x: IntegratedGradients(m).attribute(x, target=1, n_steps=30),
    "saliency": lambda m, x: Saliency(m).attribute(x, target=2),
    "guided backpropagation": lambda m, x: GuidedBackprop(m).attribute(x, target=0),
    "Grad-CAM": lambda m, x: LayerGradCam(m, m[3]).attribute(x, target=1),
}


def networks() -> tuple[Model, Model]:
    """With a ReLU for each place, none of them in place, as Captum wants."""
    models = twins()
    for model in models:
        for layer in model:
            if isinstance(layer, torch.nn.ReLU):
                layer.inplace = False
    return models


@pytest.mark.parametrize("name", METHODS)
def test_attributions(name: str) -> None:
    batch = images()
    ours, native = (METHODS[name](model, batch) for model in networks())
    assert native.abs().max() > 0
    torch.testing.assert_close(ours, native)


def test_integrated_gradients_are_complete() -> None:
    """They sum to the difference of the outputs: what the method promises."""
    model, batch = networks()[0], images()
    _, gap = IntegratedGradients(model).attribute(batch, target=1, n_steps=300, return_convergence_delta=True)
    assert gap.abs().max() < 1e-2


@pytest.fixture
def registered() -> Iterator[None]:
    """The lines of docs/compatibility.md: Captum looks layers up by their exact type."""
    rules = deep_lift.SUPPORTED_NON_LINEAR
    rules |= {ours: rules[ours.__base__] for ours in (lnn.ReLU, lnn.MaxPool2d)}
    yield
    for layer in (lnn.ReLU, lnn.MaxPool2d):
        del rules[layer]


@pytest.mark.usefixtures("registered")
def test_deep_lift() -> None:
    batch = images()
    ours, native = networks()
    expected = DeepLift(native).attribute(batch, target=1)
    torch.testing.assert_close(DeepLift(ours).attribute(batch, target=1), expected)


def test_deep_lift_of_the_reverted_network() -> None:
    batch = images()
    ours, native = networks()
    expected = DeepLift(native).attribute(batch, target=1)
    torch.testing.assert_close(DeepLift(lenet_ext.revert(ours)).attribute(batch, target=1), expected)
