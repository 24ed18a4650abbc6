"""fuse_ensemble: which models make an ensemble, and by which words others are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType, ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ensembles import assert_same
from torch import Tensor, nn

import lenet_ext
from lenet_ext import fuse_ensemble
from lenet_ext.engine.architecture import check_alike

X = torch.ones(2, 4)


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu, **attributes: Any) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(4, 3), activation
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Config:
    """An object that is a part of itself, with parts that all know each other."""

    def __init__(self, slope: float, others: int = 20) -> None:
        self.slope, self.itself = slope, self
        self.others = [Config(0.0, 0) for _ in range(others)]
        for other in self.others:
            other.others = self.others


class Computed(nn.Module):
    """What its forward does is in a property, a static method and a module."""

    offset: float = 0.0

    def __init__(self, functions: ModuleType | None = None) -> None:
        super().__init__()
        self.linear, self.functions = nn.Linear(4, 3), functions

    @property
    def slope(self) -> float:
        return 0.1

    @staticmethod
    def scaled(x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.functions or F).leaky_relu(self.scaled(self.linear(x)), self.slope) + self.offset
        return y


def of_class(**attributes: object) -> nn.Module:
    return type("Computed", (Computed,), attributes)()  # type: ignore[no-any-return]


def traced(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return torch.fx.symbolic_trace(Net(function))


def own_functions() -> ModuleType:
    module = ModuleType("functions")
    module.leaky_relu = F.elu  # type: ignore[attr-defined]
    return module


def local(activation: Callable[[Tensor], Tensor], slope: float = 0.0) -> nn.Module:
    """Of a class made anew at each call."""

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.more = nn.Linear(4, 3), lambda x: F.leaky_relu(x, slope)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.more(activation(self.linear(x)))
            return y

    return Local()


def with_method(negated: bool) -> nn.Module:
    net = Net()
    if negated:
        net.forward = MethodType(lambda self, x: self.linear(-x), net)  # type: ignore[method-assign]
    return net


def changed(change: Callable[[nn.Module], object]) -> nn.Module:
    net = nn.Sequential(nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3), nn.Dropout(0.5))
    change(net)
    return net


# Two models of each, and what is said about them.
DIFFERENT: dict[str, tuple[nn.Module, nn.Module, str]] = {
    "class": (nn.Sequential(nn.Linear(4, 3)), nn.Linear(4, 3), "the class is Linear, there Sequential"),
    "layer": (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh()), 'layer "0" is Tanh.*, there ReLU'),
    "more layers": (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU()), 'layer "1" is ReLU'),
    "fewer layers": (nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU()), 'layer "1" is not there'),
    "sizes": (nn.Linear(4, 3), nn.Linear(4, 2), "weight is (2, 4)"),
    "bias": (nn.Linear(4, 3), nn.Linear(4, 3, bias=False), "bias is None"),
    "dtype": (nn.Linear(4, 3), nn.Linear(4, 3).double(), "torch.float64"),
    "trained": (nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False), "requires a gradient"),
    "mode": (nn.Linear(4, 3), nn.Linear(4, 3).eval(), "the mode of the model is eval, there training"),
    "mode of a layer": (changed(id), changed(lambda net: net[1].eval()), 'the mode of layer "1" is eval'),  # type: ignore[index]
    "stride": (nn.Conv1d(4, 3, 1), nn.Conv1d(4, 3, 1, stride=2), "stride"),
    "eps": (changed(id), changed(lambda net: setattr(net[1], "eps", 0.1)), "eps=0.1"),  # type: ignore[index]
    "p": (changed(id), changed(lambda net: setattr(net[2], "p", 0.1)), "p=0.1"),  # type: ignore[index]
    "number": (Net(depth=1), Net(depth=2), "attribute depth of the model is 2, there 1"),
    "attribute": (Net(), Net(depth=2), "attribute depth of the model is 2, there not there"),
    "function": (Net(F.relu), Net(torch.tanh), "attribute activation of the model is .*tanh.*relu"),
    "partial": (Net(partial(F.elu, alpha=1.0)), Net(partial(F.elu, alpha=0.5)), "attribute activation .*0.5"),
    "lambda": (Net(lambda x: x * 2), Net(lambda x: x * 3), "attribute activation of the model"),
    "method": (with_method(False), with_method(True), "attribute forward of the model"),
    "closure": (local(F.relu), local(torch.tanh), "the class of the model"),
    "inner closure": (local(F.relu, 0.1), local(F.relu, 0.2), "attribute more of the model"),
    "class of a layer": (
        nn.Sequential(local(F.relu)), nn.Sequential(local(torch.tanh)), 'the class of layer "0"'
    ),
    "object": (Net(config=Config(0.1)), Net(config=Config(0.2)), "attribute config of the model .*0.2"),
    "nested": (Net(config={"a": [1, (2, {3})]}), Net(config={"a": [1, (2, {4})]}), "attribute config"),
    "large tensor": (Net(scale=torch.ones(99)), Net(scale=torch.zeros(99)), "attribute scale .* values"),
    "property": (of_class(), of_class(slope=property(lambda _: 0.2)), "the class of the model"),
    "static method": (of_class(), of_class(scaled=staticmethod(lambda x: x * 3)), "the class of the model"),
    "class attribute": (of_class(offset=1.0), of_class(offset=2.0), "the class of the model"),
    "python module": (Computed(), Computed(own_functions()), "attribute functions of the model is functions"),
    "traced graph": (traced(F.relu), traced(torch.tanh), "attribute _graph of the model"),
    "tensor": (Net(scale=torch.ones(2)), Net(scale=torch.zeros(2)), r"attribute scale .*\[0.0, 0.0\]"),
    "shared": (
        nn.Sequential(one := nn.Linear(3, 3), one), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)),
        "1.weight is .*, there the same as 0.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_models_that_differ(name: str) -> None:
    first, second, message = DIFFERENT[name]
    pattern = message if ".*" in message else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(RuntimeError, match=f"model 2 is not of the architecture of model 0: .*{pattern}"):
        fuse_ensemble([first, first, second], X)


@pytest.mark.parametrize(
    "make",
    [
        lambda: local(F.relu, 0.1),
        lambda: Net(lambda x: F.elu(x, 0.3)),
        lambda: Net(partial(F.elu, alpha=0.5), config=Config(0.1), kind=Config, generator=torch.Generator()),
        lambda: Net(nn.Tanh()),
        lambda: Net(scale=torch.ones(99), empty=torch.empty(2, device="meta"), words={"a", "b"}),
        lambda: traced(torch.tanh),
        of_class,
    ],
)
def test_models_made_by_the_same_code(make: Callable[[], nn.Module]) -> None:
    models = [make(), make()]
    assert_same(fuse_ensemble(models, X)(X), torch.stack([lenet_ext.fuse(model, X)(X) for model in models]))


def test_models_of_other_layers_of_the_same_kind() -> None:
    models = [nn.Sequential(nn.Linear(4, 3), nn.ReLU()) for _ in range(2)]
    check_alike([models[0], lenet_ext.convert(models[1])])
    fused = fuse_ensemble([lenet_ext.fuse(model, X) for model in models], X)
    torch.testing.assert_close(fused(X), torch.stack([model(X) for model in models]))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([],), {}, ValueError, r"there is no model; \(model, example_input, copies=0\) makes none"),
        ((3,), {}, TypeError, "models must be torch.nn.Modules, or one, got int"),
        (([nn.ReLU(), 3],), {}, TypeError, "models must be torch.nn.Modules, got int"),
        (([nn.ReLU()],), {"copies": 2}, TypeError, "copies is for a single model"),
        ((nn.ReLU(),), {}, TypeError, "with a single model copies must be an int"),
        ((nn.ReLU(),), {"copies": 2.0}, TypeError, "copies must be an int, got float"),
        ((nn.ReLU(),), {"copies": True}, TypeError, "copies must be an int, got bool"),
        ((nn.ReLU(),), {"copies": -1}, ValueError, "copies must be at least 0, got -1"),
        ((nn.ReLU(),), {"copies": 2, "mean": 0.1}, ValueError, "mean and std belong together"),
        ((nn.LSTM(4, 3),), {"copies": 2}, RuntimeError, "fuse: "),
        ((Computed(F),), {"copies": 2}, RuntimeError, "the model cannot be copied: .*module"),
        ((nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),), {"copies": 2}, RuntimeError, "fuse: "),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: tuple[Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fuse_ensemble(*arguments, X, **options)


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_buffers_that_are_not_saved() -> None:
    """Of the network itself too, whether fused or an ensemble."""
    fused, many = lenet_ext.fuse(model := Buffered(), X), fuse_ensemble(Buffered(), X, copies=2)
    assert list(fused.state_dict()) == list(model.state_dict()) == list(many.member(0))
    fused.load_state_dict(model.state_dict())
    many.load_member(1, model.state_dict())
    assert [(name, tuple(buffer.shape)) for name, buffer in many.named_buffers()] == [
        ("kept", (2, 2)), ("passing", (2, 2))
    ]  # fmt: skip
