"""What is timed: a call of a model, which is one layer or a whole network, on a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode

FORWARD = "forward"
BACKWARD = "forward + backward"
INFERENCE = "inference"
TRAINING_STEP = "training step"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """make: builds it of torch.nn's layers, its children in the order of their calls.

    image: the shape of one. classes: of a network, which is trained on labels; 0 for a layer. first: whether
    it is or begins with a network's first layer, whose images need no gradient.
    """

    name: str
    image: Shape
    make: Callable[[], Module]
    classes: int = 0
    first: bool = True


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that several engines can do with `batch` images on `threads` threads, in float32.

    direction: `FORWARD` and `INFERENCE` are a call under torch.no_grad(), `BACKWARD` one with every gradient
    for a given gradient of the output, `TRAINING_STEP` a step of SGD with momentum on the cross entropy.
    """

    model: Model
    batch: int
    direction: str
    threads: int = 1
    device: str = "cpu"
    memory_format: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        return f"{self.name}, {self.direction}, batch {self.batch}, {threads_text(self.threads)}"

    @property
    def name(self) -> str:
        last = self.memory_format == torch.channels_last
        return f"{self.model.name}, channels_last" if last else self.model.name

    @property
    def with_autograd(self) -> bool:
        return self.direction in (BACKWARD, TRAINING_STEP)

    @cached_property
    def operations(self) -> int:
        """Multiplications and additions by the plain method; 0 where these are not the work."""
        task = replace(self, device="meta")
        module, images = task.module(), task.images()
        forward = count_operations(module, images)
        if not self.with_autograd:
            return forward
        first = count_operations(next(module.children(), module), images) if self.model.first else 0
        return 3 * forward - first  # each gradient is as much work as the output

    def module(self) -> Module:
        """Of native layers; the same parameters each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.model.make().to(self.device)

    def images(self) -> Tensor:
        """(N, ...), in the task's memory format; the same each time."""
        return self.random(self.batch, *self.model.image, seed=1)

    def random(self, *shape: int, seed: int) -> Tensor:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return values.to(self.device, memory_format=self.memory_format)

    def labels(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randint(self.model.classes, (self.batch,), generator=generator).to(self.device)


def count_operations(module: Module, images: Tensor) -> int:
    """Multiplications and additions of the convolutions and matrix products in a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops()


def threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
