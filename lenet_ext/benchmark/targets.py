"""The speed-ups this package sets itself, and what a run reached of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from lenet_ext.benchmark.cases import BACKWARD, FORWARD, TRAINING_STEP
from lenet_ext.benchmark.measure import Measurement

Measurements = Mapping[str, Sequence[Measurement]]  # by the report's name
Measured = Callable[[Measurements, int], float]  # the speed-up on so many threads


@dataclass(frozen=True)
class Target:
    """A speed-up over native torch: `must` is required, `aim` is hoped for."""

    name: str
    must: float
    aim: float
    measured: Measured

    def verdict(self, speedup: float) -> str:
        if speedup >= self.aim:
            return "aim met"
        return "must met" if speedup >= self.must else "missed"


@dataclass(frozen=True)
class TargetResult:
    """What a run reached of a target."""

    target: Target
    speedups: Mapping[int, float]  # by number of threads

    @property
    def verdicts(self) -> dict[int, str]:
        return {threads: self.target.verdict(speedup) for threads, speedup in self.speedups.items()}


def target_results(measurements: Measurements) -> list[TargetResult]:
    """Every target, in the order of `TARGETS`; `measurements` must hold all reports."""
    threads = sorted({one.threads for report in measurements.values() for one in report})
    return [
        TargetResult(target, {number: target.measured(measurements, number) for number in threads})
        for target in TARGETS
    ]


def _of_case(report: str, prefix: str, direction: str, batch: int) -> Measured:
    """The speed-up of the contiguous case whose name starts with `prefix`."""

    def measured(measurements: Measurements, threads: int) -> float:
        found = (
            one.speedup
            for one in measurements[report]
            if one.case.name.startswith(prefix)
            and (one.case.direction, one.case.batch, one.threads) == (direction, batch, threads)
        )
        return next(found)  # channels_last follows contiguous

    return measured


def _suite(combine: Callable[[Sequence[float]], float]) -> Measured:
    def measured(measurements: Measurements, threads: int) -> float:
        return combine([one.speedup for one in measurements["suite"] if one.threads == threads])

    return measured


def _targets() -> list[Target]:
    targets = [
        Target(f"LeNet training step, B={batch}", must, aim, _of_case("lenet", "", TRAINING_STEP, batch))
        for batch, must, aim in ((1, 1.5, 2.5), (64, 2.5, 3.5), (256, 2.5, 3.5), (1024, 2.5, 3.5))
    ]
    layers = (
        ("max_pool2d", "pool1", FORWARD, 10, 20),
        ("max_pool2d", "pool2", FORWARD, 10, 20),
        ("conv2d", "conv1", FORWARD, 2.5, 3.2),
        ("conv2d", "conv2", FORWARD, 1.0, 1.2),
        ("conv2d", "conv1", BACKWARD, 2, 3),
        ("conv2d", "conv2", BACKWARD, 2, 3),
    )
    targets += [
        Target(f"{layer} {direction}, B={batch}", must, aim, _of_case(report, layer, direction, batch))
        for report, layer, direction, must, aim in layers
        for batch in (64, 256)
    ]
    return [
        *targets,
        Target("layer suite, geometric mean", 1.5, 2, _suite(geometric_mean)),
        Target("layer suite, worst case", 0.7, 1, _suite(min)),
    ]


TARGETS = _targets()
