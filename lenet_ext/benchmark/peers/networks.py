"""The networks that are compared, and one thing to do with one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenet_ext.benchmark.cases import TRAINING_STEP, Shape, dense_operations
from lenet_ext.models import LeNet


@dataclass(frozen=True)
class Network:
    """A chain of layers; `make` builds it from torch.nn, or from what stands in for it.

    Its children are its layers in the order of their calls. quick: the batch sizes of a quick run.
    """

    name: str
    title: str
    image: Shape
    classes: int
    make: Callable[[Any], torch.nn.Module]
    batches: Sequence[int]
    quick: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Logits of a batch, or one training step on it, on so many threads."""

    network: Network
    batch: int
    direction: str
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.network.name}, {self.direction}, batch {self.batch}, {threads}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of the plain method."""
        training = self.direction == TRAINING_STEP
        return dense_operations(self.model(), (self.batch, *self.network.image), training)

    def model(self) -> torch.nn.Module:
        """Of native layers; the same parameters each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network.make(torch.nn)

    def images(self) -> Tensor:
        return torch.randn(self.batch, *self.network.image, generator=torch.Generator().manual_seed(1))

    def labels(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randint(self.network.classes, (self.batch,), generator=generator)


def _lenet5(layers: Any) -> torch.nn.Module:
    return torch.nn.Sequential(
        layers.Conv2d(1, 6, 5, padding=2),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5),
        layers.ReLU(),
        layers.MaxPool2d(2),
        torch.nn.Flatten(),
        layers.Linear(400, 120),
        layers.ReLU(),
        layers.Linear(120, 84),
        layers.ReLU(),
        layers.Linear(84, 10),
    )


def _mnist(layers: Any) -> torch.nn.Module:
    return torch.nn.Sequential(
        layers.Conv2d(1, 32, 3),
        layers.ReLU(),
        layers.Conv2d(32, 64, 3),
        layers.ReLU(),
        layers.MaxPool2d(2),
        torch.nn.Flatten(),
        layers.Linear(9216, 128),
        layers.ReLU(),
        layers.Linear(128, 10),
    )


def _femnist(layers: Any) -> torch.nn.Module:
    return torch.nn.Sequential(
        layers.Conv2d(1, 32, 5, padding=2),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(32, 64, 5, padding=2),
        layers.ReLU(),
        layers.MaxPool2d(2),
        torch.nn.Flatten(),
        layers.Linear(3136, 2048),
        layers.ReLU(),
        layers.Linear(2048, 62),
    )


LENET = Network(
    "lenet",
    "the LeNet on 3x32x32",
    (3, 32, 32),
    10,
    lambda layers: LeNet(layers=layers),
    batches=(1, 16, 64, 256, 1024, 4096),
    quick=(1, 64),
)
NETWORKS = (
    LENET,
    Network("lenet5", "LeNet-5 on 1x28x28", (1, 28, 28), 10, _lenet5, batches=(1, 64, 256), quick=(64,)),
    Network(
        "mnist",
        "the network of torch's MNIST example (without dropout)",
        (1, 28, 28),
        10,
        _mnist,
        batches=(1, 64),
        quick=(16,),
    ),
    Network("femnist", "LEAF's FEMNIST network", (1, 28, 28), 62, _femnist, batches=(1, 64), quick=(16,)),
)
