"""Comparing a network of the user's own with native torch: what `lenet-ext check --model` prints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lenet_ext.engine.fused import fuse
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.training.network import build_network, convert_quietly, why_not_fused
from lenet_ext.training.own_network import OwnNetwork

LIMIT = 1e-8  # of the errors in float64, relative to the largest value
BATCH, STEPS = 6, 4
OPTIONS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
TIMED_BATCHES = (1, 64)
SECONDS = 0.6  # that each pair of calls is timed
Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Agreement:
    """The largest difference from native torch over the largest value, in float64.

    error: None where native torch differs from itself, since the network draws numbers.
    """

    what: str
    error: float | None

    @property
    def passed(self) -> bool:
        return self.error is None or self.error <= LIMIT  # false for NaN


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
        model = build_network(network, "torch", own).to(device)
        return cls(model, network, device, why_not_fused(model, network, device))

    def agreements(self) -> Iterator[Agreement]:
        """Outputs in eval mode and in training mode, gradients, and what four training steps change.

        Layers of dropout have a probability of 0 there: they would drop others in each call.
        """
        images, labels = self._batch(BATCH, torch.float64)
        steps = f"parameters and buffers after {STEPS} steps of SGD"
        for training in (False, True):
            mode = "training" if training else "eval"
            outputs, gradients = f"output, {mode} mode", f"gradients, {mode} mode"
            if self._is_random(images, training):
                yield from (Agreement(what, None) for what in (outputs, gradients, *[steps] * training))
                continue
            native = self._steady().train(training)
            ours = self._ours(native, images[:1]).train(training)
            with torch.no_grad():
                yield Agreement(outputs, _error([ours(images)], [native(images)]))
            yield Agreement(gradients, _error(*(_gradients(one, images, labels) for one in (ours, native))))
            if training:
                yield Agreement(steps, self._error_after_steps(images, labels))

    def _error_after_steps(self, images: Tensor, labels: Tensor) -> float:
        native = self._steady()
        ours = self._ours(native, images[:1])
        our_step, native_step = self._step(ours), _by_autograd(native)
        for number in range(STEPS):
            batch = images.roll(number, 0), labels.roll(number)
            our_step(*batch)
            native_step(*batch)
        return _error(*(list(one.state_dict().values()) for one in (ours, native)))

    def _is_random(self, images: Tensor, training: bool) -> bool:
        """Whether native torch makes something else of the same images."""
        found = []
        for seed in (1, 2):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                found.append(self._steady().train(training)(images))
        return not torch.equal(*found)

    def _steady(self) -> nn.Module:
        """In float64, without dropout."""
        native = self._native(torch.float64)
        for module in native.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return native

    def speeds(self) -> Iterator[Speed]:
        """Inference and training steps beside native torch's."""
        for batch in TIMED_BATCHES:
            images, labels = self._batch(batch, torch.float32)
            native = self._native(torch.float32).eval()
            ours = self._ours(native, images[:1]).eval()
            with torch.no_grad():
                times = _in_turns(self.device, partial(ours, images), partial(native, images))
            yield Speed(f"inference, {batch} image{'s' * (batch > 1)}", *times)
        native = self._native(torch.float32)
        ours = self._ours(native, images[:1])
        our_step, native_step = self._step(ours), _by_autograd(native)
        times = _in_turns(
            self.device, partial(our_step, images, labels), partial(native_step, images, labels)
        )
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


def _gradients(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor | None]:
    """Those of the parameters that are trained; None for one that has no part in the output."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = nn.functional.cross_entropy(model(images), labels)
    return list(torch.autograd.grad(loss, trained, allow_unused=True))


def _error(ours: Sequence[Tensor | None], native: Sequence[Tensor | None]) -> float:
    """Each tensor's largest difference over its own largest value, the worst of them; NaN if one is NaN.

    For tensors that are all but zero beside others, as gradients that cancel out, the largest value is taken
    to be a millionth of that of all tensors.
    """
    pairs = [pair for pair in zip(ours, native, strict=True) if pair[1] is not None]
    sizes = [
        float(other.double().abs().max()) for _, other in pairs if other is not None and other.numel() > 0
    ]
    least = 1e-6 * max((size for size in sizes if math.isfinite(size)), default=0.0)
    errors = [0.0]
    for one, other in pairs:
        assert one is not None
        assert other is not None
        if torch.equal(one, other):  # infinite ones, too
            continue
        difference = float((one.double() - other.double()).abs().max())
        errors.append(difference / max(float(other.double().abs().max()), least))
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _in_turns(device: str, ours: Callable[[], object], native: Callable[[], object]) -> tuple[float, float]:
    """The median times of both, in microseconds."""

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for call in (ours, native, ours, native):
        call()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, measured in zip((ours, native), times, strict=True):
            finish()
            start = time.perf_counter()
            call()
            finish()
            measured.append(time.perf_counter() - start)
    return median(times[0]) * 1e6, median(times[1]) * 1e6
