"""What the tests of capture share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_ext.engine.capture import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU


class Forward(nn.Module):
    """A model whose forward is a function of itself and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def replay(layers: list[Layer], model: nn.Module, x: Tensor) -> Tensor:
    """What `layers` say that `model` computes, with torch's functions."""
    parameters: dict[str | None, Any] = dict(model.named_parameters(remove_duplicate=False))
    parameters[None] = None
    for layer in layers:
        match layer:
            case Conv2d(weight, bias, stride, (top, bottom, left, right), dilation, groups):
                padding: Any = (top, left)
                if (top, left) != (bottom, right):
                    x, padding = F.pad(x, (left, right, top, bottom)), 0
                x = F.conv2d(x, parameters[weight], parameters[bias], stride, padding, dilation, groups)
            case Linear(weight, bias):
                x = F.linear(x, parameters[weight], parameters[bias])
            case ReLU():
                x = F.relu(x)
            case MaxPool2d(kernel_size, stride, padding, dilation, ceil_mode):
                x = F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
            case Flatten():
                x = x.flatten(1)
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
