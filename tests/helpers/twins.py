"""A small network of our layers, the same of torch.nn's, and what is compared of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lenet_ext

SHAPE = (2, 9, 8)
CLASSES = 3


def native_network(dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    """Every kind of layer, among them a strided convolution of groups and a ReLU in place."""
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(SHAPE[0], 4, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(4, 6, 2, stride=2, groups=2, bias=False),
        layers.ReLU(inplace=True),
        layers.Flatten(),
        layers.Linear(6 * 2 * 2, 5),
        layers.ReLU(inplace=True),
        layers.Linear(5, CLASSES),
    ).to(dtype)


def twins(dtype: torch.dtype = torch.float64) -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    """Ours and the native one."""
    native = native_network(dtype)
    return lenet_ext.convert(native), native


def images(count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, *SHAPE, dtype=dtype)


def output_and_gradients(
    call: Callable[[Tensor], Tensor], model: torch.nn.Module, batch: Tensor
) -> tuple[Tensor, ...]:
    """The output of `call`, and the gradients of a curved loss for the images and all parameters."""
    batch = batch.clone(memory_format=torch.preserve_format).requires_grad_()
    output = call(batch)
    return output, *torch.autograd.grad(output.double().square().sum(), [batch, *model.parameters()])


class Calls(TorchDispatchMode):
    """Collects the operators that are called: ours by their names, and torch's convolutions and products."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name.startswith("lenet_ext::") or any(word in name for word in ("conv", "mm", "pool")):
            self.names.append(name.removeprefix("lenet_ext::"))
        return function(*args, **(kwargs or {}))
