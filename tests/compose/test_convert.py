"""convert and revert: what changes, and what must not."""

from __future__ import annotations

import pytest
import torch

import lenet_ext
import lenet_ext.nn as lnn


class MyLinear(torch.nn.Linear):
    """A user's own layer."""


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(inplace=True),
        torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Flatten()),
        torch.nn.Linear(4 * 4 * 4, 8),
        torch.nn.ReLU(),
        MyLinear(8, 3),
    )


def layer_types(model: torch.nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def test_there_and_back() -> None:
    model = network()
    image = torch.randn(2, 1, 8, 8)
    converted = lenet_ext.convert(model)
    assert [t.__name__ for t in layer_types(converted)] == [t.__name__ for t in layer_types(model)]
    ours = {lnn.Conv2d, lnn.ReLU, lnn.MaxPool2d, lnn.Linear}
    assert ours <= set(layer_types(converted))
    assert not ours & set(layer_types(model))
    reverted = lenet_ext.revert(converted)
    assert layer_types(reverted) == layer_types(model)
    assert repr(reverted) == repr(converted) == repr(model)
    expected = model(image)
    torch.testing.assert_close(converted(image), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reverted(image), expected)


def test_copies_parameters() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    converted = lenet_ext.convert(model)
    for (name, mine), (other_name, other) in zip(
        converted.named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(mine, other)
        assert mine.data_ptr() != other.data_ptr()
        assert mine.requires_grad == other.requires_grad
        assert isinstance(mine, torch.nn.Parameter)


@pytest.mark.parametrize("direction", [lenet_ext.convert, lenet_ext.revert])
def test_keeps_training_mode(direction) -> None:
    model = lenet_ext.convert(network()) if direction is lenet_ext.revert else network()
    model.eval()
    model[0].train()
    copy = direction(model)
    assert [m.training for m in copy.modules()] == [m.training for m in model.modules()]


def test_leaves_subclasses_alone() -> None:
    converted = lenet_ext.convert(network())
    assert type(converted[6]) is MyLinear
    assert type(lenet_ext.convert(torch.nn.Conv1d(1, 1, 1))) is torch.nn.Conv1d
    parametrized = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    assert type(lenet_ext.convert(parametrized)).__name__ == "ParametrizedLinear"


def test_root_may_be_a_layer() -> None:
    linear = torch.nn.Linear(2, 3)
    assert type(lenet_ext.convert(linear)) is lnn.Linear
    assert type(linear) is torch.nn.Linear


def test_shared_layers_and_parameters_stay_shared() -> None:
    shared = torch.nn.Linear(4, 4)
    model = torch.nn.ModuleList([shared, shared, torch.nn.Linear(4, 4)])
    model[2].weight = shared.weight
    converted = lenet_ext.convert(model)
    assert converted[0] is converted[1]
    assert converted[2].weight is converted[0].weight
    assert converted[0] is not shared


def test_keeps_hooks() -> None:
    calls = []
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, args, output: calls.append(type(module)))
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: calls.append("backward"))
    lenet_ext.convert(model)(torch.randn(1, 2)).sum().backward()
    assert calls == [lnn.Linear, "backward"]
