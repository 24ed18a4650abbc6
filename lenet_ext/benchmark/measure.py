"""Checking and timing one case."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lenet_ext.benchmark.cases import NATIVE, OURS, Case
from lenet_ext.benchmark.timing import Effort, Timing, time_side_by_side

# Quartiles further apart than this speak of a machine that did something else meanwhile.
STEADY_SPREAD = 1.5


class WrongResult(RuntimeError):
    """Our result differs from native torch's: a time for it would mean nothing."""


@dataclass(frozen=True)
class Measurement:
    """A case on a number of threads, ours and native torch's timing of one call."""

    case: Case
    threads: int
    ours: Timing
    native: Timing

    @property
    def speedup(self) -> float:
        """How many times as fast as native torch ours is."""
        return self.native.median / self.ours.median

    @property
    def is_steady(self) -> bool:
        """Whether the runs of each side took about the same time."""
        sides = (self.ours, self.native)
        return all(side.upper_quartile <= STEADY_SPREAD * side.lower_quartile for side in sides)

    def microseconds_per_image(self, timing: Timing) -> float:
        return timing.median * 1e6 / self.case.batch

    def gigaflops(self, timing: Timing) -> float | None:
        """10^9 floating-point operations a second; None for cases that consist of other work."""
        operations = self.case.operations
        return None if operations is None else operations / timing.median / 1e9


def measure(case: Case, threads: int, effort: Effort) -> Measurement:
    """Time `case` on `threads` threads. Raises `WrongResult`, before timing, where the results differ."""
    with torch_threads(threads), torch.set_grad_enabled(case.with_autograd):
        ours, native = case.call(OURS), case.call(NATIVE)
        for number, (result, expected) in enumerate(zip(ours(), native(), strict=True)):
            distance = difference(result, expected)
            if not distance <= case.tolerance:  # NaN is no small difference either
                raise WrongResult(
                    f"{case.name}, batch {case.batch}, {case.direction}: result {number} differs from "
                    f"native torch's by {distance:.1e} of the largest value, but rounding by at most "
                    f"{case.tolerance:.0e}"
                )
        return Measurement(case, threads, *time_side_by_side(ours, native, effort))


def difference(result: Tensor, expected: Tensor) -> float:
    """The largest, as a share of the largest expected value; infinite where the shapes differ."""
    if result.shape != expected.shape:
        return math.inf
    return float((result - expected).abs().max() / expected.abs().max())


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """torch on so many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
