"""capture: what it refuses, in the user's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as ours
import lenet_ext.nn as lnn
from lenet_ext.engine.capture import capture


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 1, 12, 12)


def refusal(model: nn.Module, example: Tensor) -> str:
    with pytest.raises(RuntimeError, match=r"^fuse: ") as caught:
        capture(model, example)
    message = str(caught.value)
    assert "\n" not in message
    return message


def after_conv(function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> Forward:
    return Forward(lambda net, x: function(net, net.conv(x)), conv=nn.Conv2d(1, 3, 3), **modules)


OPERATORS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "sigmoid": (lambda net, x: torch.sigmoid(x), "Forward.forward (aten.sigmoid) is no conv2d"),
    "tanh": (lambda net, x: x.tanh(), "(aten.tanh) is no conv2d"),
    "leaky relu": (lambda net, x: F.leaky_relu(x), "(aten.leaky_relu) is no conv2d"),
    "relu6": (lambda net, x: F.relu6(x), ") is no conv2d"),
    "average pool": (lambda net, x: F.avg_pool2d(x, 2), "(aten.avg_pool2d) is no conv2d"),
    "adaptive pool": (lambda net, x: F.adaptive_avg_pool2d(x, 1), "(aten.adaptive_avg_pool2d) is no"),
    "dropout": (lambda net, x: F.dropout(x), "(aten.dropout) is random in training mode: call model.eval()"),
    "dropout2d": (lambda net, x: F.dropout2d(x, 0.1), "(aten.feature_dropout) is random in training mode"),
    "log_softmax": (lambda net, x: F.log_softmax(x, 1), "(aten.log_softmax) belongs into the loss"),
    "softmax": (lambda net, x: x.softmax(1), "(aten.softmax) belongs into the loss"),
    "pad": (lambda net, x: F.pad(x, (1, 1)), "(aten.pad) is padding that cannot be fused"),
    "detach": (lambda net, x: x.detach().relu(), "(aten.detach) keeps gradients from"),
    "no_grad": (lambda net, x: torch.no_grad()(F.relu)(x), "runs layers under torch.no_grad"),
    "dtype": (lambda net, x: x.double(), "(aten.to) takes torch.float32 on cpu to torch.float64 on cpu"),
    "constant": (lambda net, x: x * 2, "(aten.mul) is no conv2d"),
    "slice": (lambda net, x: x[:, 0], ") is no conv2d"),
    "squeeze": (lambda net, x: x.squeeze(), "(aten.squeeze) is no conv2d"),
    "indices": (lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0], "return_indices=True"),
    "our indices": (lambda net, x: ours.max_pool2d(x, 2, return_indices=True)[1], "return_indices=True"),
    "residual": (lambda net, x: x + F.relu(x), "(aten.add) uses a value for the second time: a branch"),
    "added to itself": (lambda net, x: x + x, "(aten.add) is no conv2d"),
    "concatenation": (lambda net, x: torch.cat([F.relu(x), x], 1), "(aten.cat) uses a value for the second"),
    "branch": (lambda net, x: (F.relu(x), F.max_pool2d(x, 2))[1], "(aten.max_pool2d) uses a value for the"),
    "flattened to 3": (lambda net, x: x.flatten(2), "turns (N, 3, 10, 10) into (N, 3, 100)"),
    "flattened batch": (lambda net, x: x.flatten(), "(aten.flatten) turns (N, 3, 10, 10) into (N)"),
    "channels to batch": (lambda net, x: x.view(-1, 100), "(aten.view) turns (N, 3, 10, 10) into (N, 100)"),
    "half the batch": (lambda net, x: x.reshape(2, -1), "works for some batch sizes only"),
    "transposed": (lambda net, x: x.permute(0, 2, 3, 1), "(aten.permute) is no conv2d"),
    "linear on images": (lambda net, x: nn.Linear(10, 2)(x), "of 4 dimensions instead of (N, in_features)"),
    "fixed batch": (lambda net, x: x.view(4, 300), "works for some batch sizes only"),
    "len": (lambda net, x: x.view(len(x), 300), "works for some batch sizes only"),
    "batch-dependent": (lambda net, x: F.relu(x) if len(x) > 7 else x, "works for some batch sizes only"),
    "data-dependent": (lambda net, x: F.relu(x) if x.sum() > 0 else x, "data-dependent"),
    "kernel of the batch": (lambda net, x: F.max_pool2d(x, x.size(0)), "works for some batch sizes only"),
    "error": (lambda net, x: net.missing(x), "AttributeError: 'Forward' object has no attribute 'missing'"),
    "wrong sizes": (lambda net, x: F.conv2d(x, net.conv.weight), "RuntimeError: Given groups=1"),
    "tuple": (lambda net, x: (x,), "must return one tensor, it returns a collection of 1"),
    "two outputs": (lambda net, x: (F.relu_(x), x), "must return one tensor, it returns a collection of 2"),
    "dictionary": (lambda net, x: {"logits": x}, "must return one tensor, it returns a collection of 1"),
    "number": (lambda net, x: 3, "must return a tensor, it returns 3"),
    "size": (lambda net, x: x.size(0), "must return a tensor, it returns"),
    "nothing": (lambda net, x: None, "must return a tensor, it returns None"),
    "an earlier value": (lambda net, x: (F.relu(x), x)[1], "does not return the last value that it computes"),
    "a parameter": (lambda net, x: net.conv.weight, "does not return the last value that it computes"),
    "view of what changes": (lambda net, x: (x, F.relu_(x.flatten(1)))[0], "does not return the last value"),
    "changed after a view": (lambda net, x: (x.flatten(1), F.relu_(x))[0], "(aten.relu_) uses a value for"),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_operators(name: str) -> None:
    function, expected = OPERATORS[name]
    message = refusal(after_conv(function), images())
    assert expected in message
    assert message.endswith("use lenet_ext.convert instead")


def test_every_branch_of_a_custom_conv_is_refused() -> None:
    model = Forward(lambda net, x: net.a(x) + net.b(x), a=nn.Conv2d(1, 2, 3), b=nn.Conv2d(1, 2, 3))
    assert 'layer "b" (aten.conv2d) uses a value for the second time' in refusal(model, images())


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: nn.BatchNorm2d(3), 'layer "net.features.1" (aten.batch_norm) is no conv2d'),
    "batch norm, eval": (lambda: nn.BatchNorm2d(3).eval(), 'layer "net.features.1" (aten.batch_norm)'),
    "dropout": (nn.Dropout, 'layer "net.features.1" (aten.dropout) is random in training mode'),
    "sigmoid": (nn.Sigmoid, 'layer "net.features.1" (aten.sigmoid) is no conv2d'),
    "adaptive pool": (lambda: nn.AdaptiveMaxPool2d(1), 'layer "net.features.1" (aten.adaptive_max_pool2d)'),
    "positions": (
        lambda: nn.MaxPool2d(2, return_indices=True),
        'layer "net.features.1" (aten.max_pool2d_with',
    ),
    "circular": (
        lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        'layer "net.features.1" (aten.pad) is padding that cannot be fused: only that of a conv2d with',
    ),
    "our circular": (
        lambda: lnn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        'layer "net.features.1" (aten.pad)',
    ),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
        'layer "net.features.1" (aten.conv2d) has a weight that is computed (aten._weight_norm)',
    ),
    "unflatten": (lambda: nn.Unflatten(1, (3, 1)), 'layer "net.features.1" (aten.unflatten) is no conv2d'),
    "log softmax": (
        lambda: nn.LogSoftmax(1),
        'layer "net.features.1" (aten.log_softmax) belongs into the loss',
    ),
    "spectral norm": (
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 3, 3)),
        'layer "net.features.1" has hooks, which would not be called (spectral_norm, weight_norm and pruning',
    ),
    "lazy": (
        lambda: nn.LazyConv2d(3, 3),
        'layer "net.features.1" has no parameters yet: call the model once',
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_named(name: str) -> None:
    build, expected = MODULES[name]
    model = nn.ModuleDict({"features": nn.Sequential(nn.Conv2d(1, 3, 3), build())})
    assert expected in refusal(Forward(lambda net, x: net.net["features"](x), net=model), images())


def test_named_where_used_twice() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    assert 'layer "1.1" (aten.tanh)' in refusal(nn.Sequential(nn.Linear(4, 4), block), torch.randn(2, 4))
    model = Forward(lambda net, x: net.act(net.act(net.fc(x))), fc=nn.Linear(4, 4), act=nn.Tanh())
    assert 'layer "act" (aten.tanh)' in refusal(model, torch.randn(2, 4))


def test_the_model_may_be_a_layer() -> None:
    assert refusal(nn.Sigmoid(), images()).startswith("fuse: Sigmoid.forward (aten.sigmoid) is no")


class Weights(nn.Module):
    """A linear layer on weights of its own."""

    def __init__(self, linear: Callable[[Weights, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = linear
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.vector = nn.Parameter(torch.randn(4))
        self.one = nn.Parameter(torch.randn(1))
        self.register_buffer("buffer", torch.randn(4, 4))
        self.constant = torch.randn(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self, x)


WEIGHTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "buffer": (lambda w, x: F.linear(x, w.buffer), "has a weight that is a buffer or constant instead of a"),
    "constant": (
        lambda w, x: F.linear(x, w.constant),
        "has a weight that is a buffer or constant instead of",
    ),
    "computed": (
        lambda w, x: F.linear(x, w.weight.t()),
        "has a weight that is computed (aten.t) instead of a",
    ),
    "computed bias": (
        lambda w, x: F.linear(x, w.weight, w.vector * 2),
        "has a bias that is computed (aten.mul)",
    ),
    "vector": (lambda w, x: F.linear(x, w.vector), "has a weight of shape (4,) in torch.float32, which must"),
    "our vector": (lambda w, x: ours.linear(x, w.vector), "has a weight that is computed (aten.unsqueeze)"),
    "bias of 1": (
        lambda w, x: F.linear(x, w.weight, w.one),
        "has a bias of shape (1,) in torch.float32, which",
    ),
    "matmul": (lambda w, x: x @ w.weight, "(aten.matmul) is no conv2d"),
    "weight as input": (lambda w, x: F.linear(w.weight, x[:1]), "(aten.slice) is no conv2d"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str) -> None:
    linear, expected = WEIGHTS[name]
    assert expected in refusal(Weights(linear), torch.randn(3, 4))


def test_weight_of_another_dtype() -> None:
    model = lnn.Linear(4, 4).double()
    expected = "fuse: example_input must be torch.float64 like weight, got torch.float32"
    assert refusal(model, torch.randn(3, 4)) == expected
    assert refusal(nn.Conv2d(1, 1, 1).double(), images()) == expected


def test_changed_buffer() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x.relu()

    model = Counter()
    expected = "Counter.forward (aten.add_) changes a buffer or a parameter in place"
    assert expected in refusal(model, images())
    assert model.count == 0


@pytest.mark.parametrize("inplace", [nn.ReLU(inplace=True), lnn.ReLU(inplace=True)])
@pytest.mark.parametrize("before", [nn.Identity(), nn.Flatten()])
def test_overwritten_input(before: nn.Module, inplace: nn.Module) -> None:
    assert "overwrites the network's input" in refusal(nn.Sequential(before, inplace), images())


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "forward pre": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    handle = HOOKS[kind](model[1])
    assert 'layer "1" has hooks, which would not be called' in refusal(model, torch.randn(2, 4))
    handle.remove()
    HOOKS[kind](model)
    assert "fuse: Sequential has hooks" in refusal(model, torch.randn(2, 4))


@pytest.mark.parametrize("layers", [torch.nn, lnn], ids=["torch", "lenet_ext"])
@pytest.mark.parametrize("channels", [1, 3])
def test_unbatched_example(layers: Any, channels: int) -> None:
    model = nn.Sequential(layers.Conv2d(channels, 2, 3), layers.MaxPool2d(2))
    example = torch.randn(channels, 8, 8)
    expected = f"a batch dimension, (N, C, H, W) or (N, features), and has shape ({channels}, 8, 8)"
    assert expected in refusal(model, example)
    assert expected in refusal(nn.Sequential(layers.MaxPool2d(2)), example)


def test_example_of_other_dimensions() -> None:
    assert "has shape (4,)" in refusal(nn.Linear(4, 4), torch.randn(4))
    assert "has shape ()" in refusal(nn.ReLU(), torch.randn(()))


def test_hard_coded_batch_of_one() -> None:
    message = refusal(after_conv(lambda net, x: x.view(1, 300)), images(1))
    assert "for batches of any size: RuntimeError: shape '[1, 300]' is invalid" in message


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_grad_inside_forward_shows_in_every_mode(mode: Any) -> None:
    model = after_conv(lambda net, x: torch.no_grad()(F.relu)(x))
    with mode():
        assert "runs layers under torch.no_grad" in refusal(model, images())


def test_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.relu()

    assert "TypeError: missing a required argument: 'y'" in refusal(Two(), images())


@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(), nn.Dropout().eval()])
def test_no_layer(model: nn.Module) -> None:
    assert f"{type(model).__name__} has no layer to fuse" in refusal(model, images())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_model() -> None:
    assert "Exporting a ScriptModule is not supported" in refusal(
        torch.jit.script(nn.Linear(4, 4)), torch.ones(2, 4)
    )


def test_the_cause_is_chained() -> None:
    with pytest.raises(RuntimeError, match="ValueError: LeNet: images must have shape") as caught:
        capture(lenet_ext.LeNet(), torch.randn(2, 1, 32, 32))
    assert type(caught.value.__cause__) is ValueError


def test_types() -> None:
    with pytest.raises(TypeError, match=r"fuse: model must be a torch\.nn\.Module, got function"):
        capture(lambda x: x, images())
    with pytest.raises(TypeError, match=r"fuse: example_input must be a Tensor, got list"):
        capture(nn.ReLU(), [1.0])
