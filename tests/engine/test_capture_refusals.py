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


BATCH = "mixes the images of a batch"
OPERATORS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "sin": (lambda net, x: torch.sin(x), "Forward.forward (aten.sin) is no layer that the fused engine has"),
    "clamp": (lambda net, x: x.clamp(0, 1), "(aten.clamp) is no layer"),
    "alpha dropout": (lambda net, x: F.alpha_dropout(x, training=True), "is alpha dropout in training mode"),
    "reflected": (lambda net, x: F.pad(x, (1, 1, 1, 1), "reflect"), '(aten.pad) pads in mode "reflect"'),
    "padded batch": (lambda net, x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1)), "(aten.pad) pads the batch, which"),
    "softmax of the batch": (lambda net, x: x.softmax(0), f"(aten.softmax) {BATCH}"),
    "mean of the batch": (lambda net, x: x.mean(0, keepdim=True), f"(aten.mean) {BATCH}"),
    "one mean": (lambda net, x: x.mean(), "(aten.mean) makes one number of all images"),
    "mean of channels": (lambda net, x: x.mean(1), "(aten.mean) reduces other dimensions than the last two"),
    "half precision": (lambda net, x: x.mean((2, 3), dtype=torch.float16), "takes the mean in torch.float16"),
    "batch concatenated": (lambda net, x: torch.cat([x, x]), f"(aten.cat) {BATCH}"),
    "some of the batch": (lambda net, x: x[1:], "works for some batch sizes only"),
    "one of the batch": (lambda net, x: x[0], f"(aten.select) {BATCH}"),
    "batch in parts": (lambda net, x: x.chunk(2)[0], "works for some batch sizes only"),
    "batch moved": (lambda net, x: x.transpose(0, 1), "(aten.transpose) moves the dimension of the batch"),
    "broadcast": (
        lambda net, x: x * x.mean((2, 3), keepdim=True),
        "combines (N, 3, 10, 10) and (N, 3, 1, 1)",
    ),
    "parameter added": (
        lambda net, x: x + net.conv.bias.view(3, 1, 1),
        "values with something else: aten.view",
    ),
    "tensor as a number": (lambda net, x: x * torch.tensor(2.0), "with something else"),
    "divided by zero": (lambda net, x: x / 0, "(aten.div) divides by zero"),
    "divided by another": (lambda net, x: x / (x + 1), "(aten.div) divides by"),
    "floor": (lambda net, x: torch.div(x, 2, rounding_mode="floor"), "(aten.div) rounds its result"),
    "power": (lambda net, x: x**3, "(aten.pow) has the exponent 3: only 2"),
    "maximum of all": (lambda net, x: x.max(), "(aten.max) takes a maximum of all images, or of two"),
    "places of maxima": (lambda net, x: x.max(3)[1], "takes the positions"),
    "detach": (lambda net, x: x.detach().relu(), "(aten.detach) keeps gradients from"),
    "no_grad": (lambda net, x: torch.no_grad()(F.relu)(x), "runs layers under torch.no_grad"),
    "dtype": (lambda net, x: x.double(), "(aten.to) takes torch.float32 on cpu to torch.float64 on cpu"),
    "indices": (lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0], "return_indices=True"),
    "our indices": (lambda net, x: ours.max_pool2d(x, 2, return_indices=True)[1], "return_indices=True"),
    "flattened batch": (lambda net, x: x.flatten(), f"turns (N, 3, 10, 10) into (N), which {BATCH}"),
    "channels to batch": (lambda net, x: x.view(-1, 100), "(aten.view) turns (N, 3, 10, 10) into (N, 100)"),
    "half the batch": (lambda net, x: x.reshape(2, -1), "works for some batch sizes only"),
    "fixed batch": (lambda net, x: x.view(4, 300), "works for some batch sizes only"),
    "len": (lambda net, x: x.view(len(x), 300), "works for some batch sizes only"),
    "batch-dependent": (lambda net, x: F.relu(x) if len(x) > 7 else x, "works for some batch sizes only"),
    "data-dependent": (lambda net, x: F.relu(x) if x.sum() > 0 else x, "data-dependent"),
    "kernel of the batch": (lambda net, x: F.max_pool2d(x, x.size(0)), "works for some batch sizes only"),
    "number": (lambda net, x: 3, "returns no tensor that it computes from its input"),
    "size": (lambda net, x: x.size(0), "returns something that is not computed from its input"),
    "nothing": (lambda net, x: None, "returns no tensor that it computes from its input"),
    "a parameter": (lambda net, x: net.conv.weight, "returns something that is not computed from its input"),
    "view of what changes": (
        lambda net, x: (x, F.relu_(x.flatten(1)))[0],
        "returns a view whose elements were changed in place",
    ),
    "changed after a view": (
        lambda net, x: F.relu((x.flatten(1), F.relu_(x))[0]),
        "(aten.relu) reads a view whose elements were changed in place under another name",
    ),
    "changed part": (lambda net, x: (x[:, 0].relu_(), x.tanh())[1], "(aten.tanh) reads a view"),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_operators(name: str) -> None:
    function, expected = OPERATORS[name]
    message = refusal(after_conv(function), images())
    assert expected in message
    assert message.endswith("use lenet_ext.convert instead")


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "instance norm": (
        lambda: nn.InstanceNorm2d(3, track_running_stats=True),
        'layer "net.features.1" (aten.instance_norm) has running statistics',
    ),
    "mish": (nn.Mish, 'layer "net.features.1" (aten.mish) is no layer that the fused engine has'),
    "positions": (
        lambda: nn.MaxPool2d(2, return_indices=True),
        'layer "net.features.1" (aten.max_pool2d_with',
    ),
    "circular": (
        lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        'layer "net.features.1" (aten.pad) pads in mode "circular": only padding with',
    ),
    "our circular": (
        lambda: lnn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        'layer "net.features.1" (aten.pad)',
    ),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
        'layer "net.features.1" (aten.conv2d) has a weight that is computed (aten._weight_norm)',
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
    block = nn.Sequential(nn.Linear(4, 4), nn.Mish())
    assert 'layer "1.1" (aten.mish)' in refusal(nn.Sequential(nn.Linear(4, 4), block), torch.randn(2, 4))
    model = Forward(lambda net, x: net.act(net.act(net.fc(x))), fc=nn.Linear(4, 4), act=nn.Mish())
    assert 'layer "act" (aten.mish)' in refusal(model, torch.randn(2, 4))


def test_the_model_may_be_a_layer() -> None:
    assert refusal(nn.Mish(), images()).startswith("fuse: Mish.forward (aten.mish) is no layer")


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
    "matmul": (lambda w, x: x @ w.weight, "(aten.matmul) multiplies by something that is no linear"),
    "weight as input": (
        lambda w, x: F.linear(w.weight, x[:, :4]),
        "has a weight that is computed (aten.slice)",
    ),
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


def test_a_model_that_fails_by_itself() -> None:
    """Its own words, and no advice: another way of running it would not help."""
    failure = "fuse: Forward itself fails for example_input: "
    message = refusal(after_conv(lambda net, x: net.missing(x)), images())
    assert message == f"{failure}AttributeError: 'Forward' object has no attribute 'missing'"
    message = refusal(after_conv(lambda net, x: F.conv2d(x, net.conv.weight)), images())
    assert message.startswith(f"{failure}RuntimeError: Given groups=1")
    assert "convert" not in message


def test_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.relu()

    message = refusal(Two(), images())
    assert message.startswith("fuse: Two itself fails for example_input: TypeError: ")
    assert message.endswith("missing 1 required positional argument: 'y'")


@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(), nn.Dropout(0.0)])
def test_no_layer(model: nn.Module) -> None:
    assert f"{type(model).__name__} has no layer to fuse" in refusal(model, images())


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    model = nn.Sequential(nn.Linear(6, 4), kind(4, 3))
    assert f'layer "1" ({kind.__name__}) is recurrent: the engine has no such layer' in refusal(
        model, images()
    )


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
