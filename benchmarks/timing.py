"""Timing calls that do the same, in turns."""

from __future__ import annotations

import ctypes
import math
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch.utils.benchmark

Call = Callable[[], Any]
Timed = Callable[[int, int], float]  # of (untimed calls, timed calls after them): seconds of one timed call

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

# A call this long needs no other one before it to warm it up, and one this long is timed a few times only.
LONG_SECONDS = 50e-3
VERY_LONG_SECONDS = 0.5
FEWEST_VERY_LONG = 3


@dataclass(frozen=True)
class Effort:
    """How long to time each engine: for `seconds`, but with at least `fewest` runs.

    Short calls are repeated within a run until it lasts `run_seconds`: the clock's own cost then vanishes.
    """

    seconds: float
    fewest: int
    run_seconds: float = 200e-6


FULL = Effort(seconds=0.4, fewest=9)
QUICK = Effort(seconds=0.05, fewest=3)


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


def seconds_of(call: Call, untimed: int, timed: int) -> float:
    """Seconds of one of `timed` calls, which follow `untimed` others.

    timeit keeps Python's garbage collector off meanwhile, which would run in whichever call happens to
    allocate next; torch's clock waits until a GPU has done its work.
    """
    timer = timeit.Timer(call, timer=torch.utils.benchmark.timer)
    timer.timeit(untimed)
    return timer.timeit(timed) / timed


def time_in_turns(engines: Sequence[Timed], effort: Effort, warm_up: float = 0.0) -> list[Timing]:
    """Time any number of engines in alternating runs, so that whatever slows the machine down slows all.

    Those that are slow take part in fewer rounds, evenly spread over all. warm_up: seconds of calls before
    each run that are not timed. It is one call at least, since the run of another engine has pushed the code
    and data of this one out of the caches.
    """
    plans = [_plan(timed, effort, warm_up) for timed in engines]
    rounds = max((plan.runs for plan in plans), default=0)
    seconds: list[list[float]] = [[] for _ in engines]
    for round in range(rounds):
        for timed, plan, sample in zip(engines, plans, seconds, strict=True):
            if (round + 1) * plan.runs // rounds > round * plan.runs // rounds:
                sample.append(timed(plan.untimed, plan.timed))
    timings = []
    for plan, sample in zip(plans, seconds, strict=True):
        lower, _, upper = quantiles(sample, n=4, method="inclusive")
        timings.append(Timing(median(sample), lower, upper, plan.runs, plan.timed))
    return timings


class _Plan(NamedTuple):
    runs: int
    untimed: int  # calls of each run
    timed: int


def _plan(timed: Timed, effort: Effort, warm_up: float) -> _Plan:
    single = min(timed(0, 1) for _ in range(2))
    if single >= LONG_SECONDS:
        fewest = effort.fewest if single < VERY_LONG_SECONDS else FEWEST_VERY_LONG
        return _Plan(max(fewest, int(effort.seconds / single)), untimed=0, timed=1)
    # A single call is timed together with the clock.
    single = min(timed(1, math.ceil(effort.run_seconds / single)) for _ in range(3))
    calls, untimed = math.ceil(effort.run_seconds / single), max(1, math.ceil(warm_up / single))
    runs = int(effort.seconds / (single * (untimed + calls)))
    return _Plan(max(effort.fewest, runs), untimed, calls)
