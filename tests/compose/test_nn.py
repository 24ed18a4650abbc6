"""The layers beside torch.nn's: arguments, initialisation, repr, state_dict, results."""

from __future__ import annotations

import copy
import inspect
import io

import pytest
import torch
from torch import Tensor

import lenet_ext.nn as lnn

IMAGE = (2, 4, 9, 10)
# Class name, arguments, shape of the input.
LAYERS = [
    ("Conv2d", (4, 6, 3), {}, IMAGE),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": 2, "groups": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": "same", "bias": False}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": "valid", "dtype": torch.float64}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": (2, 1), "padding_mode": "circular"}, IMAGE),
    ("Conv2d", (4, 6, (3, 4)), {"padding": "same", "padding_mode": "reflect"}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {}, (4, 9, 10)),
    ("MaxPool2d", (2,), {}, IMAGE),
    ("MaxPool2d", ((3, 2),), {"stride": 2, "padding": 1, "dilation": (1, 2), "ceil_mode": True}, IMAGE),
    ("MaxPool2d", (2,), {"return_indices": True}, IMAGE),
    ("Linear", (10, 7), {}, IMAGE),
    ("Linear", (10, 7), {"bias": False, "dtype": torch.float64}, (3, 10)),
    ("ReLU", (), {}, IMAGE),
    ("ReLU", (True,), {}, IMAGE),
]
PARAMETERS = pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)


def pair(name: str, arguments: tuple, options: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our layer and torch's, made from the same random state."""
    state = torch.get_rng_state()
    ours = getattr(lnn, name)(*arguments, **options)
    torch.set_rng_state(state)
    return ours, getattr(torch.nn, name)(*arguments, **options)


@PARAMETERS
def test_same_results(name: str, arguments: tuple, options: dict, shape: tuple[int, ...]) -> None:
    image = torch.randn(shape, dtype=options.get("dtype", torch.float32))
    results = []
    for layer in pair(name, arguments, options):
        x = image.clone().requires_grad_()
        output = layer(x * 1)
        first = output[0] if isinstance(output, tuple) else output
        grads = torch.autograd.grad(first.square().sum(), [x, *layer.parameters()])
        results.append((output, grads))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@PARAMETERS
def test_same_faces(name: str, arguments: tuple, options: dict, shape: tuple[int, ...]) -> None:
    """Initialisation, repr, state_dict and signature are torch's."""
    ours, theirs = pair(name, arguments, options)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    theirs.load_state_dict(ours.state_dict())


def test_copies_and_pickles() -> None:
    model = torch.nn.Sequential(
        lnn.Conv2d(1, 2, 3), lnn.ReLU(), lnn.MaxPool2d(2), torch.nn.Flatten(), lnn.Linear(8, 3)
    )
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    image = torch.randn(2, 1, 6, 6)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert [type(layer) for layer in other] == [type(layer) for layer in model]
        assert torch.equal(other(image), model(image))


def test_parametrized_layers() -> None:
    """weight_norm replaces the weight by a computed one."""
    layer = torch.nn.utils.parametrizations.weight_norm(lnn.Conv2d(2, 3, 3))
    image = torch.randn(1, 2, 5, 5)
    expected = torch.nn.functional.conv2d(image, layer.weight, layer.bias)
    torch.testing.assert_close(layer(image), expected, rtol=1e-5, atol=1e-5)
    layer(image).sum().backward()
    assert all(isinstance(p.grad, Tensor) for p in layer.parameters())
