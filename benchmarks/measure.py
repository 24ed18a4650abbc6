"""Checking and timing one task on several engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import set_torch_threads

from benchmarks import processes
from benchmarks.engines import EAGER, UPDATE, Engine
from benchmarks.tasks import Task
from benchmarks.timing import Effort, Timed, Timing, seconds_of, time_in_turns

# The largest difference from torch eager that rounding explains, over the largest value. A float32 sum of n
# random terms is wrong by less than about sqrt(n) units of 6e-8, and weight gradients have n < 10^6.
TOLERANCE = 1e-4
GPU_TOLERANCE = 1e-3  # cuDNN's fastest convolutions may be Winograd's or the FFT's, which round more
# Of what the checked steps did to a parameter. Where rounding decides which of two values in a pooling window
# is the larger, or whether one is above zero, gradients go elsewhere.
UPDATE_TOLERANCE = 2e-2

# The threads of a library wait busily for more work at first. Where processes take turns, those of the one
# before must have fallen asleep, and meanwhile this one's wake up; a pause would put all to sleep.
WARM_UP_SECONDS = 3e-3
WARM_UP_SECONDS_THREADS = 30e-3

# Quartiles further apart than this speak of a machine that did something else meanwhile.
STEADY_SPREAD = 1.5


@dataclass(frozen=True)
class Measurement:
    """The timings of one call of a task, by the engine's name; an engine that cannot do it has none.

    wrong: what was wrong with the results of an engine, which was not timed then.
    """

    task: Task
    timings: Mapping[str, Timing]
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.task.name}, B={self.task.batch}"

    def speedup(self, engine: str, over: Iterable[str]) -> float | None:
        """How many times as fast as the best of `over`; None where it, or all of them, were not timed."""
        best = min((self.timings[name].median for name in over if name in self.timings), default=None)
        if best is None or engine not in self.timings:
            return None
        return best / self.timings[engine].median

    def microseconds_per_image(self, engine: str) -> float:
        return self.timings[engine].median * 1e6 / self.task.batch

    def gigaflops(self, engine: str) -> float:
        """10^9 operations of the plain method a second, however many the engine's own needs."""
        return self.task.operations / self.timings[engine].median / 1e9

    def is_steady(self, *engines: str) -> bool:
        """Whether the runs of each took about the same time."""
        timings = [self.timings[engine] for engine in engines]
        return all(one.upper_quartile <= STEADY_SPREAD * one.lower_quartile for one in timings)

    def record(self) -> dict[str, Any]:
        """For a JSON file: times in seconds of one call."""
        names = ("name", "batch", "direction", "threads", "operations")
        facts = {name: getattr(self.task, name) for name in names}
        timings = {engine: asdict(timing) for engine, timing in self.timings.items()}
        return facts | {"timings": timings, "wrong": dict(self.wrong)}


def measure(
    task: Task,
    engines: Sequence[Engine],
    effort: Effort,
    reference_engine: Engine = EAGER,
    *,
    apart: bool = False,
) -> Measurement:
    """Time `task` on each of these engines whose results are those of torch eager, `reference_engine`.

    apart: each engine in a process of its own; otherwise those alone that have threads of their own.
    """
    calls: dict[str, Timed] = {}
    wrong: dict[str, str] = {}
    with set_torch_threads(task.threads), torch.set_grad_enabled(task.with_autograd):
        reference = reference_engine.prepare(task)
        assert reference is not None
        expected = reference.check()
        del reference  # and its memory
        for engine in engines:
            prepared = (processes.prepare if apart or engine.packages else _prepare)(engine, task)
            if prepared is None:
                continue
            timed, results = prepared
            reasons = [_reason(task, name, results[name], right) for name, right in expected.items()]
            if any(reasons):
                wrong[engine.name] = f"{engine.name} ({task}): {next(filter(None, reasons))}"
            else:
                calls[engine.name] = timed
        warm_up = 0.0
        if apart or any(engine.packages for engine in engines):
            warm_up = WARM_UP_SECONDS if task.threads == 1 else WARM_UP_SECONDS_THREADS
        timings = time_in_turns(list(calls.values()), effort, warm_up)
    return Measurement(task, dict(zip(calls, timings, strict=True)), wrong)


def _prepare(engine: Engine, task: Task) -> tuple[Timed, Mapping[str, Any]] | None:
    """The engine ready to be timed in this process, and its results."""
    run = engine.prepare(task)
    return None if run is None else (partial(seconds_of, run.call), run.check())


def _reason(task: Task, name: str, result: Any, expected: Tensor) -> str:
    """Why this result is wrong; empty where it is right."""
    tolerance = TOLERANCE if task.device == "cpu" else GPU_TOLERANCE
    if name.startswith(UPDATE):
        tolerance = UPDATE_TOLERANCE
    allowed = tolerance * float(expected.abs().max())
    try:
        torch.testing.assert_close(
            torch.as_tensor(result), expected, rtol=0, atol=allowed, check_stride=False
        )
    except AssertionError as error:
        return f"{name} differs from torch eager's: {' '.join(str(error).split())}"
    return ""
