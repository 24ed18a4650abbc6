"""What is timed: one operator, or the whole LeNet, made once from our layers and once from native torch's."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import lenet_ext.functional
import lenet_ext.nn
from lenet_ext.models import LeNet

FORWARD = "forward"
BACKWARD = "forward + backward"
INFERENCE = "inference"
TRAINING_STEP = "training step"

Shape = tuple[int, ...]
Results = tuple[Tensor, ...]


class Library(NamedTuple):
    """Where functions and layers come from."""

    functional: ModuleType
    nn: ModuleType


OURS = Library(lenet_ext.functional, lenet_ext.nn)
NATIVE = Library(torch.nn.functional, torch.nn)


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """Something both libraries can do on a batch of `batch` images."""

    name: str
    batch: int
    direction: str
    device: str = "cpu"

    # The largest difference from native torch that rounding explains, over the largest value. A float32 sum
    # of n random terms is wrong by less than about sqrt(n) units of 6e-8, and weight gradients have n < 10^6.
    tolerance: ClassVar[float] = 1e-4

    @property
    def with_autograd(self) -> bool:
        """Whether it runs as in training; otherwise it runs under torch.no_grad()."""
        return self.direction in (BACKWARD, TRAINING_STEP)

    @property
    @abstractmethod
    def operations(self) -> int | None:
        """Multiplications and additions in one call; None where these are not the work."""

    @abstractmethod
    def call(self, library: Library) -> Callable[[], Results]:
        """A function that does the work once and returns every result, the same for each library."""


@dataclass(frozen=True, kw_only=True)
class OperatorCase(Case):
    """A function of torch.nn.functional; backward from a given gradient of its output."""

    operator: str
    input: Shape  # of one image
    weight: Shape | None = None  # where there is a weight, there is a bias
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_gradient: bool = True  # False for a network's first layer
    memory_format: torch.memory_format = torch.contiguous_format

    @property
    def operations(self) -> int | None:
        if self.weight is None:
            return None
        products = 2 * self._output_shape().numel() * torch.Size(self.weight[1:]).numel()
        return products * (1 if self.direction == FORWARD else 2 + self.input_gradient)

    def call(self, library: Library) -> Callable[[], Results]:
        function, arguments = getattr(library.functional, self.operator), self.arguments
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(shape, generator=generator).to(self.device) for shape in self._shapes()]
        tensors[0] = tensors[0].to(memory_format=self.memory_format)
        if self.direction == FORWARD:
            return lambda: (function(*tensors, **arguments),)

        leaves = [tensor.requires_grad_() for tensor in tensors[0 if self.input_gradient else 1 :]]
        output_gradient = torch.randn(self._output_shape(), generator=generator)
        output_gradient = output_gradient.to(self.device, memory_format=self.memory_format)

        def forward_and_backward() -> Results:
            for leaf in leaves:
                leaf.grad = None  # what zero_grad() does: gradients are stored, not added to older ones
            output = function(*tensors, **arguments)
            output.backward(output_gradient)
            return output.detach(), *_gradients(leaves)

        return forward_and_backward

    def _shapes(self) -> list[Shape]:
        input = (self.batch, *self.input)
        return [input] if self.weight is None else [input, self.weight, self.weight[:1]]

    def _output_shape(self) -> torch.Size:
        tensors = [torch.empty(shape, device="meta") for shape in self._shapes()]
        return getattr(torch.nn.functional, self.operator)(*tensors, **self.arguments).shape


@dataclass(frozen=True, kw_only=True)
class LeNetCase(Case):
    """The LeNet on 3x32x32 images: logits under no_grad, or a step of torch.optim.SGD with momentum."""

    name: str = "LeNet"

    # Where rounding decides which of two values in a pooling window is the larger, the gradient goes to
    # another position: that moves a weight's gradient, a sum over thousands of windows, by more.
    tolerance: ClassVar[float] = 5e-3
    # So small that the network stays what it was: after thousands of real steps on one batch its gradients
    # would be denormal numbers, which are slow.
    learning_rate: ClassVar[float] = 1e-6

    @property
    def operations(self) -> int:
        return dense_operations(LeNet(layers=torch.nn), (self.batch, 3, 32, 32), self.with_autograd)

    def call(self, library: Library) -> Callable[[], Results]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LeNet(layers=library.nn).to(self.device)
            images = torch.randn(self.batch, 3, 32, 32).to(self.device)
            labels = torch.randint(10, (self.batch,)).to(self.device)
        if not self.with_autograd:
            return lambda: (model(images),)

        parameters = list(model.parameters())
        optimizer = torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)

        def step() -> Results:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss.detach(), *_gradients(parameters)

        return step


def _gradients(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def dense_operations(model: torch.nn.Module, images: Shape, training: bool) -> int:
    """Multiplications and additions of a network's conv2d and linear layers by the plain method.

    images: (N, ...), the input's shape. training: with both gradients, but none of the images.
    """
    of_layer: list[int] = []

    def count(layer: torch.nn.Module, _: Any, output: Tensor) -> None:
        of_layer.append(2 * output.numel() * layer.weight[0].numel())  # type: ignore[index]

    model = copy.deepcopy(model).to("meta")
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.empty(images, device="meta"))
    return 3 * sum(of_layer) - of_layer[0] if training else sum(of_layer)
