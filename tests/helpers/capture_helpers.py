"""What the tests of capture share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import torch
from torch import Tensor, nn

from lenet_ext.engine.capture import Captured, capture


class Forward(nn.Module):
    """A model whose forward is a function of itself and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def found(captured: Captured) -> list[tuple[Any, ...]]:
    """The layers of a chain, each with the names of its parameters."""
    nodes = captured.network.nodes
    assert [node.values for node in nodes] == [(i,) for i in range(len(nodes))]
    return [(node.layer, *(captured.parameters[i] for i in node.parameters)) for node in nodes]


def layers(model: nn.Module, example: Tensor) -> list[tuple[Any, ...]]:
    """What `capture` finds."""
    return found(capture(model, example))


def replay(layers: list[tuple[Any, ...]], model: nn.Module, x: Tensor) -> Tensor:
    """What `layers` say that `model` computes, with torch's functions."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for layer, *names in layers:
        x = oracle.apply(layer, x, *(parameters[name] for name in names))
    return x


def images(batch: int = 2, channels: int = 1, size: int = 12) -> Tensor:
    return torch.randn(batch, channels, size, size)


def sequence() -> nn.Sequential:
    return nn.Sequential(
        nn.Identity(),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Sequential(nn.ReLU(inplace=True), nn.Dropout2d(0.0), nn.MaxPool2d(3, 2, 1)),
        nn.Flatten(),
        nn.Linear(108, 5, bias=False),
        nn.ReLU(),
    )


def functional_net(functions: Any) -> Forward:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = functions.conv2d(x, net.conv.weight, net.conv.bias, stride=1, padding=(0, 0))
        x = functions.max_pool2d(functions.relu(x), 2)
        return functions.linear(torch.flatten(x, 1), net.fc.weight)

    return Forward(forward, conv=nn.Conv2d(1, 3, 3), fc=nn.Linear(75, 2))
