"""convert and revert: what changes, and what must not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as native
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils import parametrizations, parametrize, prune

import lenet_ext
import lenet_ext.functional as ours
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
    parametrized = torch.nn.utils.parametrizations.weight_norm(MyLinear(2, 2))
    assert type(lenet_ext.convert(parametrized)).__mro__[1] is MyLinear


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


@pytest.mark.parametrize(
    "parametrization",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=lambda function: function.__name__,
)
def test_parametrized_layers(parametrization: Callable[[nn.Module], nn.Module]) -> None:
    """torch makes a class of its own for each; taking the parametrization off leaves the layer's."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 5)).eval()
    images = torch.randn(2, 1, 8, 8)
    parametrization(model[0])
    parametrization(model[2])
    before = [type(layer).__mro__ for layer in model]
    converted = lenet_ext.convert(model)
    assert [type(converted[i]).__mro__[1] for i in (0, 2)] == [lnn.Conv2d, lnn.Linear]
    reverted = lenet_ext.revert(converted)
    for layer in reverted.modules():
        assert not any(base.__module__.startswith("lenet_ext") for base in type(layer).__mro__)
    assert [type(layer).__mro__ for layer in model] == before
    assert torch.equal(reverted(images), model(images))
    torch.testing.assert_close(converted(images), model(images), rtol=1e-5, atol=1e-5)
    assert reverted.state_dict().keys() == converted.state_dict().keys() == model.state_dict().keys()
    for network, kind in ((converted, lnn.Conv2d), (reverted, nn.Conv2d), (model, nn.Conv2d)):
        parametrize.remove_parametrizations(network[0], "weight")
        assert type(network[0]) is kind
        assert parametrize.is_parametrized(network[2], "weight")


def _weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of an old function
        nn.utils.weight_norm(layer)


HOOKED: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": _weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("kind", HOOKED)
def test_layers_whose_weight_a_hook_computes(kind: str) -> None:
    """There and back, with gradients for what the weight is computed from."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 5)).eval()
    images = torch.randn(2, 1, 8, 8)
    HOOKED[kind](model[0])
    HOOKED[kind](model[2])
    model(images)
    converted = lenet_ext.convert(model)
    reverted = lenet_ext.revert(converted)
    assert [type(converted[i]) for i in (0, 2)] == [lnn.Conv2d, lnn.Linear]
    assert layer_types(reverted) == layer_types(model)
    for network in (model, converted, reverted):
        network(images).square().sum().backward()
        torch.testing.assert_close(network(images), model(images), rtol=1e-5, atol=1e-5)
    for mine, other in zip(converted.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_converted_is_refused() -> None:
    model = network()
    images = torch.randn(2, 1, 8, 8)
    fused = lenet_ext.fuse(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images)
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    for function in (lenet_ext.convert, lenet_ext.revert):
        name = function.__name__
        wanted = f"{name}: model is a fused network, .*{name} the model that was given to lenet_ext.fuse"
        with pytest.raises(TypeError, match=wanted):
            function(fused)
        with pytest.raises(TypeError, match=f'{name}: layer "1" is a fused network'):
            function(nn.Sequential(nn.ReLU(), fused))
        with pytest.raises(TypeError, match=f'{name}: layer "0" was compiled by torch.jit'):
            function(nn.Sequential(scripted))
        for wrong in (nn.Linear, None, model.forward):
            with pytest.raises(TypeError, match=f"{name}: model must be a torch.nn.Module, got"):
                function(wrong)


class Functional(nn.Module):
    """Calls functions in every way that is found."""

    pool = staticmethod(native.max_pool2d)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)
        self.relu = relu

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(torch.relu(self.conv(images)), 2)
        return sum((native.relu(part) for part in features), helper(features))

    @torch.no_grad()
    def decorated(self, images: Tensor) -> Tensor:
        return native.conv2d(images, self.conv.weight)


def helper(features: Tensor) -> Tensor:
    return native.linear(features, features)


class OfModules(nn.Module):
    """Names like those of the functions, and none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv2d = nn.ReLU(), nn.Conv2d(1, 1, 3)

    def forward(self, images: Tensor) -> Tensor:
        dropped = native.dropout(self.relu(self.conv2d(images)), 0.1, self.training)
        return torch.nn.functional.avg_pool2d(ours.max_pool2d(ours.relu(dropped), 2), 2)


def said(function: Callable[[nn.Module], nn.Module], model: nn.Module) -> Iterator[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(model)
    return (str(warning.message) for warning in caught)


def test_functions_that_stay_are_named() -> None:
    """Every refusal of `fuse` says to use `convert`: it says what it does not change."""
    (message,) = said(lenet_ext.convert, nn.Sequential(Functional()))
    functions = "torch.nn.functional"
    for method, names in {
        "Functional.forward": f"{functions}.linear, {functions}.relu, torch.relu",
        "Functional.decorated": f"{functions}.conv2d",
        "Functional.pool": f"{functions}.max_pool2d",
        "Functional.relu": f"{functions}.relu",
    }.items():
        assert f"{method} refers to {names}" in message
    assert list(said(lenet_ext.revert, Functional())) == []
    traced = torch.fx.symbolic_trace(nn.Sequential(OfModules()))
    assert len(list(said(lenet_ext.convert, traced))) == 0
    assert len(list(said(lenet_ext.revert, traced))) == 1


def test_modules_with_the_names_of_functions_are_no_reason_to_warn() -> None:
    for quiet in (OfModules(), network(), lenet_ext.LeNet(layers=nn), nn.TransformerEncoderLayer(8, 2)):
        assert list(said(lenet_ext.convert, quiet)) == []
    (message,) = said(lenet_ext.revert, lenet_ext.convert(OfModules()))
    names = "lenet_ext.functional.max_pool2d, lenet_ext.functional.relu"
    assert f"revert: functions stay as they are (OfModules.forward refers to {names})" in message
    for quiet in (network(), lenet_ext.LeNet()):
        assert list(said(lenet_ext.revert, lenet_ext.convert(quiet))) == []
