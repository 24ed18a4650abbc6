"""capture: the chains that it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward, functional_net, images, layers, replay, sequence
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as ours
import lenet_ext.nn as lnn
from lenet_ext.engine.capture import capture
from lenet_ext.engine.layers import Activation, Conv2d, Flatten, Linear, MaxPool2d

CONV = (Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1), "conv.weight", "conv.bias")
RELU = (Activation("relu"),)
FLATTEN = (Flatten(),)
POOL = (MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False),)


class MnistExample(nn.Module):
    """The network of pytorch/examples/mnist, without its log_softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return self.fc2(x)


class Femnist(nn.Module):
    """The CNN of LEAF's FEMNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 32, 5, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)),
            nn.Sequential(nn.Conv2d(32, 64, 5, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(3136, 2048), nn.ReLU(), nn.Linear(2048, 62))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x.view(-1, 1, 28, 28)))


class Geometry(nn.Module):
    """Every argument of the layers at another value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            2, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, bias=False
        )
        self.conv2 = nn.Conv2d(4, 3, (2, 4), padding="same", dilation=(1, 3))
        self.conv3 = nn.Conv2d(3, 3, 2, padding="valid", groups=3)
        self.pool = nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv3(self.conv2(self.conv1(x))))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lambda: lenet_ext.LeNet(layers=torch.nn), (3, 32, 32)),
    "our lenet": (lambda: lenet_ext.LeNet(in_channels=1, image_size=28), (1, 28, 28)),
    "mnist example": (lambda: MnistExample().eval(), (1, 28, 28)),
    "femnist": (Femnist, (1, 28, 28)),
    "geometry": (Geometry, (2, 11, 13)),
    "our geometry": (lambda: lenet_ext.convert(Geometry()), (2, 11, 13)),
    "sequence": (sequence, (1, 12, 12)),
    "our sequence": (lambda: lenet_ext.convert(sequence()), (1, 12, 12)),
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (6,)),
    "perceptron on images": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 4)),
}


@pytest.mark.parametrize("example_batch", [0, 1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_replayed_chain_equals_the_model(name: str, example_batch: int) -> None:
    build, shape = NETWORKS[name]
    model = build().double()
    found = layers(model, torch.randn(example_batch, *shape, dtype=torch.float64))
    reference = lenet_ext.revert(model)
    for batch in (1, 2, 5):
        input = torch.randn(batch, *shape, dtype=torch.float64)
        # Unsymmetric padding is done in another way here, and may be rounded otherwise.
        torch.testing.assert_close(replay(found, model, input), reference(input), rtol=1e-12, atol=1e-12)


def test_describes_every_argument() -> None:
    found = capture(Geometry(), images(channels=2))
    assert layers(Geometry(), images(channels=2)) == [
        (Conv2d((1, 2), (2, 2, 1, 1), (2, 1), 2), "conv1.weight"),
        (Conv2d((1, 1), (0, 1, 4, 5), (1, 3), 1), "conv2.weight", "conv2.bias"),
        (Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 3), "conv3.weight", "conv3.bias"),
        (MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), True),),
    ]
    assert [node.label for node in found.network.nodes] == ["conv1", "conv2", "conv3", "pool"]
    assert capture(lenet_ext.convert(Geometry()), images(channels=2)).network == found.network


def test_describes_lenet() -> None:
    found = capture(lenet_ext.LeNet(), torch.randn(1, 3, 32, 32))
    assert [node.layer.kind for node in found.network.nodes] == [
        *("conv2d", "relu", "max_pool2d", "conv2d", "relu", "max_pool2d", "flatten"),
        *("linear", "relu", "linear", "relu", "linear"),
    ]
    assert found == capture(lenet_ext.LeNet(layers=torch.nn), torch.randn(1, 3, 32, 32))


def test_parameters_come_in_the_order_of_the_model() -> None:
    """Not in that of their use: by it optimizers, AveragedModel and the like tell them apart."""
    model = Forward(
        lambda net, x: net.first(net.last(net.middle(x)).relu()),
        first=nn.Linear(4, 2),
        last=nn.Linear(4, 4, bias=False),
        middle=nn.Linear(4, 4),
    )
    found = capture(model, torch.randn(1, 4))
    assert found.parameters == tuple(name for name, _ in model.named_parameters())
    assert [node.parameters for node in found.network.nodes] == [(3, 4), (2,), (), (0, 1)]
    model.middle = model.last
    found = capture(model, torch.randn(1, 4))
    assert found.parameters == ("first.weight", "first.bias", "last.weight")
    assert [node.parameters for node in found.network.nodes] == [(2,), (2,), (), (0, 1)]


RELUS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "F.relu": lambda net, x: F.relu(x),
    "F.relu inplace": lambda net, x: F.relu(x, inplace=True),
    "F.relu_": lambda net, x: F.relu_(x),
    "torch.relu": lambda net, x: torch.relu(x),
    "torch.relu_": lambda net, x: torch.relu_(x),
    "x.relu": lambda net, x: x.relu(),
    "x.relu_": lambda net, x: x.relu_(),
    "result not used": lambda net, x: (x.relu_(), x)[1],
    "nn.ReLU": lambda net, x: nn.ReLU()(x),
    "nn.ReLU inplace": lambda net, x: nn.ReLU(inplace=True)(x),
    "lnn.ReLU": lambda net, x: lnn.ReLU()(x),
    "lnn.ReLU inplace": lambda net, x: lnn.ReLU(inplace=True)(x),
    "ours, result not used": lambda net, x: (ours.relu(x, inplace=True), x)[1],
}


@pytest.mark.parametrize("spelling", RELUS)
def test_relu(spelling: str) -> None:
    model = Forward(lambda net, x: RELUS[spelling](net, net.conv(x)), conv=nn.Conv2d(1, 3, 3))
    assert layers(model, images()) == [CONV, RELU]


FLATTENINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten(1)": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "flatten to 3": lambda x: x.flatten(1, 3),
    "nn.Flatten": nn.Flatten(),
    "view(-1, n)": lambda x: x.view(-1, 300),
    "view(N, -1)": lambda x: x.view(x.size(0), -1),
    "view(shape[0], n)": lambda x: x.view(x.shape[0], 300),
    "reshape": lambda x: x.reshape(-1, 300),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "features of the shape": lambda x: x.view(-1, x.size(1) * x.size(2) * x.size(3)),
    "computed features": lambda x: x.view(-1, x.shape[1:].numel()),
    "flattened twice": lambda x: x.flatten(1).view(-1, 300).flatten(1),
    "contiguous": lambda x: x.contiguous().view(x.size(0), -1).contiguous(),
}


@pytest.mark.parametrize("spelling", FLATTENINGS)
def test_flatten(spelling: str) -> None:
    model = Forward(
        lambda net, x: net.fc(FLATTENINGS[spelling](net.conv(x))),
        conv=nn.Conv2d(1, 3, 3),
        fc=nn.Linear(300, 2),
    )
    for batch in (1, 2, 3, 300):
        assert layers(model, images(batch)) == [CONV, FLATTEN, (Linear(), "fc.weight", "fc.bias")]


NO_OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "dropout of 0": lambda x: F.dropout(x, 0.0),
    "dropout in eval mode": lambda x: F.dropout(x, training=False),
    "dropout in place in eval mode": lambda x: F.dropout(x, training=False, inplace=True),
    "its result not used": lambda x: (F.dropout(x, training=False, inplace=True), x)[1],
    "dropout2d": lambda x: F.dropout2d(x, training=False),
    "nn.Dropout2d": nn.Dropout2d().eval(),
    "nn.AlphaDropout": nn.AlphaDropout().eval(),
    "nn.FeatureAlphaDropout": nn.FeatureAlphaDropout().eval(),
    "nn.Identity": nn.Identity(),
    "same dtype": lambda x: x.float().to(torch.float32).to(x),
    "same device": lambda x: x.cpu().to("cpu"),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last),
    "same shape": lambda x: x.view(x.shape).reshape(-1, 3, 10, 10),
    "assert": lambda x: x if x.shape[1:] == (3, 10, 10) and x.dim() == 4 else x + 1,
}


@pytest.mark.parametrize("spelling", NO_OPS)
def test_no_ops(spelling: str) -> None:
    model = Forward(lambda net, x: F.relu(NO_OPS[spelling](net.conv(x))), conv=nn.Conv2d(1, 3, 3))
    assert layers(model, images(4)) == [CONV, RELU]


@pytest.mark.parametrize("functions", [F, ours], ids=["torch", "lenet_ext"])
def test_functions(functions: Any) -> None:
    expected = [CONV, RELU, POOL, FLATTEN, (Linear(), "fc.weight")]
    assert layers(functional_net(functions), images()) == expected


@pytest.mark.parametrize("grad", [False, True])
def test_fused_blocks(grad: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = ours.conv2d_relu_max_pool2d(x, net.conv.weight, net.conv.bias, pool_size=(3, 2), pool_stride=2)
        return ours.linear_relu(x.flatten(1), net.fc.weight)

    model = Forward(forward, conv=nn.Conv2d(1, 3, 3), fc=nn.Linear(60, 2)).requires_grad_(grad)
    pool = MaxPool2d((3, 2), (2, 2), (0, 0), (1, 1), False)
    found = layers(model, images())
    assert found == [CONV, RELU, (pool,), FLATTEN, (Linear(), "fc.weight"), RELU]
    batch = images()
    torch.testing.assert_close(replay(found, model, batch), model(batch))


def test_a_fused_network_again() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(75, 2))
    batch = images()
    once = lenet_ext.fuse(model, batch)
    for _ in range(2):  # not called yet, and called
        assert torch.equal(lenet_ext.fuse(once, batch)(batch), once(batch))


@pytest.mark.parametrize("functions", [F, ours], ids=["torch", "lenet_ext"])
def test_arguments_of_functions(functions: Any) -> None:
    def pooled(*args: Any, **kwargs: Any) -> Any:
        model = Forward(lambda net, x: functions.max_pool2d(x, *args, **kwargs))
        return layers(model, images())

    assert pooled(2) == pooled((2, 2), None) == pooled(kernel_size=[2]) == [POOL]
    assert pooled(3, stride=1, padding=1) == [(MaxPool2d((3, 3), (1, 1), (1, 1), (1, 1), False),)]
    assert pooled((3, 2), ceil_mode=True) == [(MaxPool2d((3, 2), (3, 2), (0, 0), (1, 1), True),)]
    assert pooled(2, dilation=(1, 3)) == [(MaxPool2d((2, 2), (2, 2), (0, 0), (1, 3), False),)]

    def padded(padding: Any, **kwargs: Any) -> Any:
        model = Forward(
            lambda net, x: functions.conv2d(x, net.conv.weight, padding=padding, **kwargs),
            conv=nn.Conv2d(1, 3, (4, 3)),
        )
        return layers(model, images())[0][0].padding

    assert padded(1) == padded((1,)) == (1, 1, 1, 1)
    assert padded((2, 1)) == (2, 2, 1, 1)
    assert padded("valid", stride=2) == (0, 0, 0, 0)
    assert padded("same") == (1, 2, 1, 1)
    assert padded("same", dilation=(3, 2)) == (4, 5, 2, 2)
