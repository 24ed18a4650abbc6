"""The speed-ups that this project sets itself, and what a run reached of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import geometric_mean
from typing import Any

from benchmarks.engines import CHANNELS_LAST, COMPILED, EAGER, FREEZE, FUSE_SGD, LAYERS, TRAIN_STEP, Engine
from benchmarks.executorch_engine import EXECUTORCH
from benchmarks.graph_engines import ONNX_RUNTIME, OPENVINO
from benchmarks.reports import ENGINES, NETWORK_BATCH, PEERS, REPORTS, Findings, Report
from benchmarks.tasks import BACKWARD, FORWARD, INFERENCE, TRAINING_STEP

NATIVE = (EAGER.name,)
ALL_PEERS = tuple(engine.name for engine in ENGINES if not engine.ours)
RUNTIMES = (EXECUTORCH.name, ONNX_RUNTIME.name, OPENVINO.name, COMPILED.name)
TORCH = (EAGER.name, CHANNELS_LAST.name, COMPILED.name)
# The fastest way of ours to run a network.
FASTEST = {INFERENCE: FREEZE.name, TRAINING_STEP: TRAIN_STEP.name}
SAME = 0.95  # the ratio of two times that only what a machine adds to either tells apart

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
    return 100 * found[0].gigaflops(FREEZE.name) / findings.peaks[threads]


def _memory_share(ours: str) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        memory = findings.memory
        return None if threads != 1 or not memory else 100 * memory[ours] / memory[EAGER.name]

    return measured


def _scaling(direction: str, batch: int) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        found = findings.of("peers_lenet", direction=direction, batch=batch)
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
        Target("layer suite, geometric mean", 2.6, 3, of("suite", combine=geometric_mean)),
        Target("layer suite, worst case", 0.95, 1, of("suite", combine=min)),
    ]


def _peer_targets() -> list[Target]:
    def beside(
        network: str, ours: Engine, over: Sequence[str], whom: str, batch: int, must: float, aim: float
    ) -> Target:
        direction = INFERENCE if ours is FREEZE else TRAINING_STEP
        what = f"{network}, {direction} ({ours.name.removeprefix('lenet_ext ')})"
        measured = _speedup(f"peers_{network}", over, ours.name, direction=direction, batch=batch)
        return Target(f"{what} vs {whom}, B={batch}", must, aim, measured)

    def lenet(ours: Engine, over: Sequence[str], batch: int, must: float, aim: float) -> Target:
        whom = "the best peer" if over is ALL_PEERS else EAGER.name
        return beside("lenet", ours, over, whom, batch, must, aim)

    def memory(ours: str) -> Target:
        return Target(f"memory of {ours} vs torch eager", 20, 10, _memory_share(ours), "%", at_most=True)

    small, large = (1, 2, 4, 8, 16), (64, 256, 1024)
    others = ("atari", "mnist", "femnist", "cifar", "lenet5")
    return [
        *(lenet(FREEZE, ALL_PEERS, batch, 2, 3) for batch in small),
        *(lenet(FREEZE, ALL_PEERS, batch, 2.5, 3.5) for batch in large),
        lenet(TRAIN_STEP, NATIVE, 1, 22, 30),
        *(lenet(TRAIN_STEP, ALL_PEERS, batch, 5, 7) for batch in large),
        lenet(FUSE_SGD, NATIVE, 64, 4.5, 6),
        *(
            beside(network, FREEZE, RUNTIMES, "the best runtime", batch, 1, 1.3)
            for network in others
            for batch in (1, NETWORK_BATCH)
        ),
        *(
            beside(network, TRAIN_STEP, TORCH, "the best of torch", NETWORK_BATCH, 1.3, 1.8)
            for network in others
        ),
        Target("lenet, inference, share of the FMA peak, B=256", 70, 100, _peak_share, "%"),
        *(
            Target(f"lenet, 2 threads vs 1, {direction}, B=256", 1.8, 1.95, _scaling(direction, 256))
            for direction in (INFERENCE, TRAINING_STEP)
        ),
        Target("lenet, 2 threads vs 1, inference, B=1", SAME, 1, _scaling(INFERENCE, 1)),
        memory(TRAIN_STEP.name),
        memory(FUSE_SGD.name),
    ]


TARGETS = (
    Targets("summary", "Targets and what was measured", _layer_targets()),
    Targets(PEERS, "The fused engine beside its peers: targets and what was measured", _peer_targets()),
)
