"""Timing two calls that do the same, side by side."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

Call = Callable[[], Any]

# Shorter calls are repeated within one run until it lasts this long: the clock's own cost then vanishes.
RUN_SECONDS = 200e-6

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Effort:
    """How long to measure a case: `seconds` in all, but at least `fewest` runs and no more than `most`."""

    seconds: float
    fewest: int
    most: int


FULL = Effort(seconds=1.0, fewest=25, most=500)
QUICK = Effort(seconds=0.15, fewest=5, most=60)

# Where many take turns: a call this long needs no warming up, and one this long is timed a few times only.
LONG_SECONDS = 50e-3
VERY_LONG_SECONDS = 0.5
FEWEST_VERY_LONG = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over all runs, and the quartiles around it."""

    median: float
    lower_quartile: float
    upper_quartile: float
    runs: int
    calls_per_run: int


def keep_freed_memory() -> None:
    """Make glibc's malloc hold on to what is freed, for the rest of the process; elsewhere nothing.

    Otherwise it gives large blocks back to the system and gets them anew, page fault by page fault, or not,
    as its thresholds happen to stand: a step on a large batch then takes up to twice as long, on either side.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def time_side_by_side(first: Call, second: Call, effort: Effort) -> tuple[Timing, Timing]:
    """Time both calls in alternating runs, so that whatever slows the machine down slows both."""
    calls = (first, second)
    with _no_garbage_collection():
        repeats = [_calls_per_run(call) for call in calls]
        seconds: list[list[float]] = [[], []]
        end = perf_counter() + effort.seconds
        for run in range(effort.most):
            if run >= effort.fewest and perf_counter() > end:
                break
            for call, repeat, sample in zip(calls, repeats, seconds, strict=True):
                sample.append(_run(call, repeat) / repeat)
    ours, native = (_summary(*pair) for pair in zip(seconds, repeats, strict=True))
    return ours, native


def time_in_turns(calls: Sequence[Call], effort: Effort, warm_up: float = 0.0) -> list[Timing]:
    """Time any number of calls in alternating runs. Each gets an equal share of the time.

    Those that are slow take part in fewer rounds, evenly spread over all. warm_up: seconds of calls before
    each run that are not timed. Meanwhile a library's own threads wake up, and those of the one before, which
    wait busily for more work, fall asleep; a pause would put all to sleep.
    """
    with _no_garbage_collection():
        plans = [_plan(call, effort, effort.seconds / len(calls), warm_up) for call in calls]
        rounds = max(plan.runs for plan in plans)
        seconds: list[list[float]] = [[] for _ in calls]
        for round in range(rounds):
            for call, plan, sample in zip(calls, plans, seconds, strict=True):
                if (round + 1) * plan.runs // rounds == round * plan.runs // rounds:
                    continue
                _warm_up(call, plan.warm_up)
                sample.append(_run(call, plan.calls, warm=False) / plan.calls)
    return [_summary(sample, plan.calls) for sample, plan in zip(seconds, plans, strict=True)]


@dataclass(frozen=True)
class _Plan:
    runs: int
    calls: int  # of each run
    warm_up: float  # seconds before each run


def _plan(call: Call, effort: Effort, seconds: float, warm_up: float) -> _Plan:
    single = min(_run(call, 1, warm=False) for _ in range(2))
    if single >= LONG_SECONDS:
        fewest = min(effort.fewest, FEWEST_VERY_LONG) if single >= VERY_LONG_SECONDS else effort.fewest
        return _Plan(_clamp(int(seconds / single), fewest, effort.most), 1, warm_up=0)
    calls = _calls_per_run(call)
    run = _run(call, calls) + max(warm_up, single)
    return _Plan(_clamp(int(seconds / run), effort.fewest, effort.most), calls, warm_up)


def _warm_up(call: Call, seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        call()


def _clamp(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def _calls_per_run(call: Call) -> int:
    """How many calls fill `RUN_SECONDS`; asking warms caches, memory pools and threads up."""
    repeat = 1
    while True:
        seconds = min(_run(call, repeat) for _ in range(3))
        if seconds >= RUN_SECONDS / 2:
            return math.ceil(repeat * RUN_SECONDS / seconds)
        repeat *= 2


def _run(call: Call, repeat: int, warm: bool = True) -> float:
    """Seconds of `repeat` calls, after one that the other's run has pushed out of the caches."""
    if warm:
        call()
    start = perf_counter()
    for _ in range(repeat):
        call()
    return perf_counter() - start


def _summary(seconds: list[float], calls_per_run: int) -> Timing:
    lower, _, upper = quantiles(seconds, n=4, method="inclusive")
    return Timing(median(seconds), lower, upper, len(seconds), calls_per_run)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection would fall into whichever call happens to allocate next."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
