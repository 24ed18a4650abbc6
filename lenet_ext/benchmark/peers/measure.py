"""Checking and timing one task on every engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lenet_ext.benchmark.cases import TRAINING_STEP
from lenet_ext.benchmark.measure import STEADY_SPREAD, WrongResult, difference, torch_threads
from lenet_ext.benchmark.peers.engines import TIMED_RATE, Engine, Training
from lenet_ext.benchmark.peers.networks import Task
from lenet_ext.benchmark.peers.torch_engines import EAGER
from lenet_ext.benchmark.timing import Call, Effort, Timing, time_in_turns

# The largest difference from torch eager that rounding explains, over the largest value.
LOGITS_TOLERANCE = 1e-4
# Of what two steps did to a parameter, over the largest change in it. Where rounding decides which of two
# values in a pooling window is the larger, or whether one is above zero, gradients go elsewhere.
UPDATE_TOLERANCE = 2e-2
CHECKED_STEPS = 2

# With several threads long enough for those of the library before to fall asleep, which wait busily at first.
WARM_UP_SECONDS = 3e-3
WARM_UP_SECONDS_THREADS = 30e-3


@dataclass(frozen=True)
class PeerMeasurement:
    """The timings of one call of a task, by the engine's name; an engine that cannot do it has none.

    wrong: what was wrong with the results of a peer, which was not timed then.
    """

    task: Task
    timings: Mapping[str, Timing]
    wrong: Mapping[str, str] = field(default_factory=dict)

    def speedup(self, engine: str, over: str) -> float:
        return self.timings[over].median / self.timings[engine].median

    def best(self, engines: Iterable[str]) -> str | None:
        """The fastest of these; None where none was timed."""
        timed = [name for name in engines if name in self.timings]
        return min(timed, key=lambda name: self.timings[name].median, default=None)

    def microseconds_per_image(self, engine: str) -> float:
        return self.timings[engine].median * 1e6 / self.task.batch

    def gigaflops(self, engine: str) -> float:
        """10^9 operations of the plain method a second, however many the engine's own needs."""
        return self.task.operations / self.timings[engine].median / 1e9

    def is_steady(self, engine: str) -> bool:
        timing = self.timings[engine]
        return timing.upper_quartile <= STEADY_SPREAD * timing.lower_quartile


def measure(task: Task, engines: Sequence[Engine], effort: Effort) -> PeerMeasurement:
    """Time `task` on these engines, on each whose results are those of torch eager.

    Raises `WrongResult` where one of ours differs; a peer that does is left out, and named with the reason.
    """
    check = _checked_step if task.direction == TRAINING_STEP else _checked_inference
    calls: dict[str, Call] = {}
    wrong: dict[str, str] = {}
    with torch_threads(task.threads):
        for engine in engines:
            try:
                call = check(task, engine)
            except WrongResult as error:
                if engine.ours:
                    raise
                wrong[engine.name] = str(error)
                continue
            if call is not None:
                calls[engine.name] = call
        warm_up = WARM_UP_SECONDS if task.threads == 1 else WARM_UP_SECONDS_THREADS
        timings = time_in_turns(list(calls.values()), effort, warm_up)
    return PeerMeasurement(task, dict(zip(calls, timings, strict=True)), wrong)


def _checked_inference(task: Task, engine: Engine) -> Call | None:
    call, native = engine.inference(task), EAGER.inference(task)
    if call is None or native is None:
        return None
    _require(task, engine.name, "the logits", _tensor(call()), native(), LOGITS_TOLERANCE)
    return call


def _checked_step(task: Task, engine: Engine) -> Call | None:
    step, native = engine.training(task), EAGER.training(task)
    if step is None or native is None:
        return None
    before = [parameter.detach() for parameter in task.model().parameters()]
    losses, expected = (
        torch.stack([_tensor(one()).reshape(()) for _ in range(CHECKED_STEPS)]) for one in (step, native)
    )
    changes = zip(_changes(step, before), _changes(native, before), strict=True)
    for number, (change, right) in enumerate(changes):
        _require(task, engine.name, f"the updates of parameter {number}", change, right, UPDATE_TOLERANCE)
    _require(task, engine.name, "the losses", losses, expected, LOGITS_TOLERANCE)
    step.set_learning_rate(TIMED_RATE)
    return step


def _changes(step: Training, before: Sequence[Tensor]) -> list[Tensor]:
    return [_tensor(new) - old for new, old in zip(step.parameters(), before, strict=True)]


def _require(task: Task, engine: str, what: str, result: Tensor, expected: Tensor, tolerance: float) -> None:
    distance = difference(result, expected)
    if not distance <= tolerance:  # NaN is no small difference either
        raise WrongResult(
            f"{engine} ({task}): {what} differ from torch eager's by {distance:.1e} of the largest value, "
            f"where rounding explains {tolerance:.0e}"
        )


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    import numpy  # which every peer outside torch needs itself

    return torch.tensor(numpy.asarray(value))
