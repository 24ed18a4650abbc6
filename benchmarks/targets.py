"""The speed-ups that this project sets itself, and what a run reached of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import geometric_mean
from typing import Any

from benchmarks.engines import EAGER, FUSE, FUSE_SGD, LAYERS, TRAIN_STEP
from benchmarks.jax_engine import JAX
from benchmarks.reports import ENGINES, PEERS, REPORTS, Findings, Report
from benchmarks.tasks import BACKWARD, FORWARD, INFERENCE, TRAINING_STEP

NATIVE = (EAGER.name,)
ALL_PEERS = tuple(engine.name for engine in ENGINES if not engine.ours)
COMPILERS = tuple(name for name in ALL_PEERS if not name.startswith(EAGER.name))
# The fastest way of ours to run a network.
FASTEST = {INFERENCE: FUSE.name, TRAINING_STEP: TRAIN_STEP.name}

Measured = Callable[[Findings, int], float | None]  # on so many threads; None where it was not measured


@dataclass(frozen=True)
class Target:
    """`must` is required, `aim` is hoped for.

    unit: "x" is a ratio of times, "%" a share, "MiB" memory. at_most: less is better.
    """

    name: str
    must: float
    aim: float
    measured: Measured
    unit: str = "x"
    at_most: bool = False

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.aim:
            return "aim met"
        return "must met" if sign * value >= sign * self.must else "missed"

    def text(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.2f}x" if self.unit == "x" else f"{value:.1f} {self.unit}"


@dataclass(frozen=True)
class Targets:
    """Those that are stated together. `name` is also the name of their files."""

    name: str
    title: str
    targets: Sequence[Target]

    @property
    def has_peers(self) -> bool:
        return self.name == PEERS

    @property
    def reports(self) -> list[Report]:
        """What they rest on."""
        return [report for report in REPORTS if report.has_peers == self.has_peers]


def _speedup(
    report: str,
    over: Sequence[str],
    ours: str,
    combine: Callable[[Sequence[float]], float] = itemgetter(0),
    **facts: Any,
) -> Measured:
    """How many times as fast as the best of `over`; combine: what of several tasks, by default the first."""

    def measured(findings: Findings, threads: int) -> float | None:
        values = [one.speedup(ours, over) for one in findings.of(report, threads=threads, **facts)]
        known = [value for value in values if value is not None]
        return combine(known) if known else None

    return measured


def _peak_share(findings: Findings, threads: int) -> float | None:
    found = findings.of("peers_lenet", direction=INFERENCE, batch=256, threads=threads)
    if threads != 1 or not found or threads not in findings.peaks:
        return None
    return 100 * found[0].gigaflops(FUSE.name) / findings.peaks[threads]


def _memory_share(ours: str) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        memory = findings.memory
        return None if threads != 1 or not memory else 100 * memory[ours] / memory[EAGER.name]

    return measured


def _scaling(direction: str) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        found = findings.of("peers_lenet", direction=direction, batch=256)
        medians = {one.task.threads: one.timings[FASTEST[direction]].median for one in found}
        return medians[1] / medians[threads] if threads > 1 and medians else None

    return measured


def _layer_targets() -> list[Target]:
    def of(report: str, **facts: Any) -> Measured:
        return _speedup(report, NATIVE, LAYERS.name, **facts)

    step = TRAINING_STEP
    layers = (
        ("max_pool2d", "pool1", FORWARD, 10, 20),
        ("max_pool2d", "pool2", FORWARD, 10, 20),
        ("conv2d", "conv1", FORWARD, 2.5, 3.2),
        ("conv2d", "conv2", FORWARD, 1.0, 1.2),
        ("conv2d", "conv1", BACKWARD, 2, 3),
        ("conv2d", "conv2", BACKWARD, 2, 3),
    )
    return [
        Target("LeNet training step, B=1", 1.5, 2.5, of("lenet", direction=step, batch=1)),
        *(
            Target(f"LeNet training step, B={b}", 2.5, 3.5, of("lenet", direction=step, batch=b))
            for b in (64, 256, 1024)
        ),
        *(
            Target(f"{layer} {way}, B={b}", must, aim, of(report, layer=layer, direction=way, batch=b))
            for report, layer, way, must, aim in layers
            for b in (64, 256)
        ),
        Target("layer suite, geometric mean", 1.5, 2, of("suite", combine=geometric_mean)),
        Target("layer suite, worst case", 0.7, 1, of("suite", combine=min)),
    ]


def _peer_targets() -> list[Target]:
    def step(batch: int, over: Sequence[str], ours: str = TRAIN_STEP.name) -> Measured:
        return _speedup("peers_lenet", over, ours, direction=TRAINING_STEP, batch=batch)

    def inference(batch: int) -> Measured:
        return _speedup("peers_lenet", COMPILERS, FUSE.name, direction=INFERENCE, batch=batch)

    def worst(network: str, direction: str) -> Measured:
        return _speedup(f"peers_{network}", ALL_PEERS, FASTEST[direction], min, direction=direction)

    def memory(ours: str) -> Target:
        return Target(f"memory of {ours} vs torch eager", 20, 10, _memory_share(ours), "%", at_most=True)

    large, directions = (64, 256, 1024), (TRAINING_STEP, INFERENCE)
    return [
        *(Target(f"TrainStep vs the best peer, B={b}", 4.5, 7, step(b, ALL_PEERS)) for b in large),
        *(Target(f"TrainStep vs torch eager, B={b}", 5, 8, step(b, NATIVE)) for b in large),
        Target("TrainStep vs torch eager, B=1", 20, 30, step(1, NATIVE)),
        Target("TrainStep vs JAX jit, B=1", 6, 10, step(1, (JAX.name,))),
        Target("fuse + SGD vs torch eager, B=64", 4, 6, step(64, NATIVE, FUSE_SGD.name)),
        *(Target(f"inference vs the best compiler, B={b}", 2.5, 3.5, inference(b)) for b in large),
        Target("inference vs the best compiler, B=1", 2, 3, inference(1)),
        Target("inference, share of the FMA peak, B=256", 70, 100, _peak_share, "%"),
        memory(TRAIN_STEP.name),
        memory(FUSE_SGD.name),
        *(
            Target(f"{network}, {way} vs the best peer, worst B", 1, 1.5, worst(network, way))
            for network in ("lenet5", "mnist", "femnist")
            for way in directions
        ),
        *(Target(f"2 threads vs 1, {way}, B=256", 1.8, 1.95, _scaling(way)) for way in directions),
    ]


TARGETS = (
    Targets("summary", "Targets and what was measured", _layer_targets()),
    Targets(PEERS, "The fused engine beside its peers: targets and what was measured", _peer_targets()),
)
