"""Torch's engines, and ours, which run inside torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import lenet_ext
from lenet_ext.benchmark.cases import TRAINING_STEP
from lenet_ext.benchmark.peers.engines import CHECKED_RATE, MOMENTUM, Engine, Inference, Training
from lenet_ext.benchmark.peers.networks import Task


class Autograd(Training):
    """Forward and backward of a module, and torch.optim.SGD."""

    def __init__(self, model: Callable[[Tensor], Tensor], parameters: Any, images: Tensor, labels: Tensor):
        self._model, self._parameters = model, list(parameters)
        self._images, self._labels = images, labels
        self._optimizer = torch.optim.SGD(self._parameters, lr=CHECKED_RATE, momentum=MOMENTUM)

    def __call__(self) -> Tensor:
        self._optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self._model(self._images), self._labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def set_learning_rate(self, rate: float) -> None:
        self._optimizer.param_groups[0]["lr"] = rate

    def parameters(self) -> Sequence[Tensor]:
        return self._parameters


class OneCall(Training):
    """TrainStep."""

    def __init__(self, fused: lenet_ext.FusedNet, images: Tensor, labels: Tensor):
        self._step = lenet_ext.TrainStep(fused, lr=CHECKED_RATE, momentum=MOMENTUM)
        self._images, self._labels = images, labels

    def __call__(self) -> Tensor:
        return self._step(self._images, self._labels)

    def set_learning_rate(self, rate: float) -> None:
        self._step.optimizer.param_groups[0]["lr"] = rate

    def parameters(self) -> Sequence[Tensor]:
        return list(self._step.fused.parameters())


class TorchEngine(Engine):
    """A module made of the native one, called under no_grad or with autograd."""

    def __init__(
        self,
        name: str,
        convert: Callable[[torch.nn.Module, Task], torch.nn.Module] = lambda model, _: model,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        directions: str = "both",
        ours: bool = False,
        compiles: bool = False,
    ):
        self.name, self.ours, self.compiles = name, ours, compiles
        self._convert, self._memory_format, self._directions = convert, memory_format, directions

    def inference(self, task: Task) -> Inference | None:
        if self._directions == "training":
            return None
        model, images = self._prepared(task)

        def logits() -> Tensor:
            with torch.no_grad():
                return model(images)

        return logits

    def training(self, task: Task) -> Training | None:
        if self._directions == "inference":
            return None
        model, images = self._prepared(task)
        return Autograd(model, model.parameters(), images, task.labels())

    def _prepared(self, task: Task) -> tuple[torch.nn.Module, Tensor]:
        model = task.model()
        model.to(memory_format=self._memory_format)  # type: ignore[call-overload]  # its stub lacks it
        return self._convert(model, task), task.images().to(memory_format=self._memory_format)


def _compiled(model: torch.nn.Module, task: Task) -> torch.nn.Module:
    """In torch.compile's default mode.

    Inference is compiled for each batch size alone. A training step takes twice as long to compile, and is
    compiled for one image and for any larger batch.
    """
    torch.compiler.reset()
    module = torch.compile(model, dynamic=task.direction == TRAINING_STEP and task.batch > 1)
    assert isinstance(module, torch.nn.Module)
    return module


class TrainStepEngine(Engine):
    name = "lenet_ext TrainStep"
    ours = True

    def training(self, task: Task) -> Training | None:
        return OneCall(_fuse(task.model(), task), task.images(), task.labels())


def _fuse(model: torch.nn.Module, task: Task) -> lenet_ext.FusedNet:
    return lenet_ext.fuse(model, torch.empty(2, *task.network.image))


EAGER = TorchEngine("torch eager")
TRAIN_STEP = TrainStepEngine()
FUSE = TorchEngine("lenet_ext fuse", _fuse, directions="inference", ours=True)
FUSE_SGD = TorchEngine("lenet_ext fuse + SGD", _fuse, directions="training", ours=True)
LAYERS = TorchEngine("lenet_ext layers", lambda model, _: lenet_ext.convert(model), ours=True)
CHANNELS_LAST = TorchEngine("torch eager channels_last", memory_format=torch.channels_last)
COMPILED = TorchEngine("torch.compile", _compiled, compiles=True)

OURS: Sequence[Engine] = (TRAIN_STEP, FUSE, FUSE_SGD, LAYERS)
PEERS: Sequence[Engine] = (EAGER, CHANNELS_LAST, COMPILED)
