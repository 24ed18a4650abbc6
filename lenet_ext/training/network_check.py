"""Comparing a network of the user's own with native torch: what `lenet-ext check --model` prints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lenet_ext.engine.fused import fuse
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.training.network import convert_quietly, why_not_fused
from lenet_ext.training.own_network import OwnNetwork

LIMIT = 1e-8  # of the errors in float64, relative to the largest value
BATCH, STEPS = 6, 4
OPTIONS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
TIMED_BATCHES = (1, 64)
SECONDS = 0.6  # that each pair of calls is timed
Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Agreement:
    """The largest difference from native torch over the largest value, in float64."""

    what: str
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= LIMIT  # false for NaN


@dataclass(frozen=True)
class Speed:
    """Median times of a call in float32, in microseconds, measured in turns."""

    what: str
    ours: float
    native: float


@dataclass(frozen=True)
class NetworkCheck:
    """A network, and how ours computes it. refusal: why not in the fused engine; None if it is."""

    model: nn.Module
    network: dict[str, int]
    device: str
    refusal: str | None

    @classmethod
    def of(cls, own: OwnNetwork, network: dict[str, int], device: str) -> NetworkCheck:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = own.build(network).to(device)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0  # each call would drop others
        return cls(model, network, device, why_not_fused(model, network, device))

    def agreements(self) -> Iterator[Agreement]:
        """Outputs in eval mode and in training mode, gradients, and what four training steps change."""
        images, labels = self._batch(BATCH, torch.float64)
        for training in (False, True):
            native = self._native(torch.float64).train(training)
            ours = self._ours(native, images[:1]).train(training)
            mode = "training" if training else "eval"
            with torch.no_grad():
                yield Agreement(f"output, {mode} mode", _error([ours(images)], [native(images)]))
            grads = [
                torch.autograd.grad(nn.functional.cross_entropy(one(images), labels), list(one.parameters()))
                for one in (ours, native)
            ]
            yield Agreement(f"gradients, {mode} mode", _error(*grads))
        native = self._native(torch.float64)
        ours = self._ours(native, images[:1])
        our_step, native_step = self._step(ours), _by_autograd(native)
        for number in range(STEPS):
            batch = images.roll(number, 0), labels.roll(number)
            our_step(*batch)
            native_step(*batch)
        states = [list(one.state_dict().values()) for one in (ours, native)]
        yield Agreement(f"parameters and buffers after {STEPS} steps of SGD", _error(*states))

    def speeds(self) -> Iterator[Speed]:
        """Inference and training steps beside native torch's."""
        for batch in TIMED_BATCHES:
            images, labels = self._batch(batch, torch.float32)
            native = self._native(torch.float32).eval()
            ours = self._ours(native, images[:1]).eval()
            with torch.no_grad():
                times = _in_turns(partial(ours, images), partial(native, images))
            yield Speed(f"inference, {batch} image{'s' * (batch > 1)}", *times)
        native = self._native(torch.float32)
        ours = self._ours(native, images[:1])
        our_step, native_step = self._step(ours), _by_autograd(native)
        times = _in_turns(partial(our_step, images, labels), partial(native_step, images, labels))
        yield Speed(f"training step, {batch} images", *times)

    def _batch(self, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        size = self.network["image_size"]
        images = torch.randn(count, self.network["in_channels"], size, size, generator=generator)
        labels = torch.randint(self.network["num_classes"], (count,), generator=generator)
        return images.to(self.device, dtype), labels.to(self.device)

    def _native(self, dtype: torch.dtype) -> nn.Module:
        return copy.deepcopy(self.model).to(dtype).train()

    def _ours(self, native: nn.Module, example: Tensor) -> nn.Module:
        """With parameters of its own."""
        if self.refusal is not None:
            return convert_quietly(native)
        return fuse(copy.deepcopy(native), example)

    def _step(self, ours: nn.Module) -> Step:
        ours.train()
        return _by_autograd(ours) if self.refusal is not None else TrainStep(ours, **OPTIONS)  # type: ignore


def _by_autograd(model: nn.Module) -> Step:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), **OPTIONS)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _error(ours: Any, native: Any) -> float:
    """Each tensor's largest difference over its own largest value; the worst of them."""
    worst = 0.0
    for one, other in zip(ours, native, strict=True):
        if other.numel() == 0:
            continue
        largest = max(float(other.detach().double().abs().max()), 1e-3)
        error = float((one.detach().double() - other.detach().double()).abs().max()) / largest
        worst = error if not error <= worst else worst  # a NaN stays
    return worst


def _in_turns(ours: Callable[[], object], native: Callable[[], object]) -> tuple[float, float]:
    """The median times of both, in microseconds."""
    for call in (ours, native, ours, native):
        call()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, measured in zip((ours, native), times, strict=True):
            start = time.perf_counter()
            call()
            measured.append(time.perf_counter() - start)
    return median(times[0]) * 1e6, median(times[1]) * 1e6
