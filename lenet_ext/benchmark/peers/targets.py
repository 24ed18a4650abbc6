"""What the fused engine is to reach beside its peers, and what a run measured of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lenet_ext.benchmark.cases import INFERENCE, TRAINING_STEP
from lenet_ext.benchmark.peers.measure import PeerMeasurement
from lenet_ext.benchmark.peers.networks import LENET, NETWORKS
from lenet_ext.benchmark.peers.registry import ENGINES
from lenet_ext.benchmark.peers.torch_engines import EAGER, FUSE, FUSE_SGD, TRAIN_STEP

PEERS = tuple(engine.name for engine in ENGINES if not engine.ours)
COMPILERS = tuple(name for name in PEERS if not name.startswith("torch eager"))
JAX = "JAX jit"
OURS = {INFERENCE: FUSE.name, TRAINING_STEP: TRAIN_STEP.name}


@dataclass(frozen=True)
class Findings:
    """All that a run measured. peaks: GFLOP/s by threads. memory: MiB of a training step by engine."""

    measurements: Sequence[PeerMeasurement]
    peaks: Mapping[int, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)

    def of(self, network: str, direction: str, batch: int, threads: int) -> PeerMeasurement | None:
        for one in self.measurements:
            task = one.task
            if (task.network.name, task.direction, task.batch, task.threads) == (
                network,
                direction,
                batch,
                threads,
            ):
                return one
        return None

    @property
    def threads(self) -> list[int]:
        return sorted({one.task.threads for one in self.measurements})


Measured = Callable[[Findings, int], float | None]  # on so many threads; None where it was not measured


@dataclass(frozen=True)
class PeerTarget:
    """`must` is required, `aim` is hoped for. unit: "x" is a ratio of times, "%" a share."""

    name: str
    must: float
    aim: float
    measured: Measured
    unit: str = "x"
    at_most: bool = False  # less is better

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"

        def reaches(target: float) -> bool:
            return value <= target if self.at_most else value >= target

        if reaches(self.aim):
            return "aim met"
        return "must met" if reaches(self.must) else "MISSED"

    def text(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.2f}x" if self.unit == "x" else f"{value:.1f} %"


def _faster(direction: str, batch: int, over: Iterable[str], ours: str = "", network: str = "") -> Measured:
    """How many times as fast as the best of `over`."""

    def measured(findings: Findings, threads: int) -> float | None:
        one = findings.of(network or LENET.name, direction, batch, threads)
        engine = ours or OURS[direction]
        best = None if one is None else one.best(over)
        return None if one is None or best is None else one.speedup(engine, best)

    return measured


def _worst(network: str, direction: str) -> Measured:
    """The least of `_faster` over the batch sizes that were measured."""

    def measured(findings: Findings, threads: int) -> float | None:
        batches = {one.task.batch for one in findings.measurements if one.task.network.name == network}
        values = [_faster(direction, batch, PEERS, network=network)(findings, threads) for batch in batches]
        return min((value for value in values if value is not None), default=None)

    return measured


def _peak_share(findings: Findings, threads: int) -> float | None:
    one = findings.of(LENET.name, INFERENCE, 256, threads)
    if threads != 1 or one is None or threads not in findings.peaks:
        return None
    return 100 * one.gigaflops(FUSE.name) / findings.peaks[threads]


def _memory_share(ours: str) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        memory = findings.memory
        return None if threads != 1 or not memory else 100 * memory[ours] / memory[EAGER.name]

    return measured


def _scaling(direction: str) -> Measured:
    def measured(findings: Findings, threads: int) -> float | None:
        one, two = (findings.of(LENET.name, direction, 256, number) for number in (1, threads))
        if threads == 1 or one is None or two is None:
            return None
        engine = OURS[direction]
        return one.timings[engine].median / two.timings[engine].median

    return measured


def _targets() -> list[PeerTarget]:
    step, eager = TRAINING_STEP, (EAGER.name,)
    large = (64, 256, 1024)
    return [
        *(PeerTarget(f"TrainStep vs the best peer, B={b}", 4.5, 7, _faster(step, b, PEERS)) for b in large),
        *(PeerTarget(f"TrainStep vs torch eager, B={b}", 5, 8, _faster(step, b, eager)) for b in large),
        PeerTarget("TrainStep vs torch eager, B=1", 20, 30, _faster(step, 1, eager)),
        PeerTarget("TrainStep vs JAX jit, B=1", 6, 10, _faster(step, 1, (JAX,))),
        PeerTarget("fuse + SGD vs torch eager, B=64", 4, 6, _faster(step, 64, eager, FUSE_SGD.name)),
        *(
            PeerTarget(f"inference vs the best compiler, B={b}", must, aim, _faster(INFERENCE, b, COMPILERS))
            for b, must, aim in ((64, 2.5, 3.5), (256, 2.5, 3.5), (1024, 2.5, 3.5), (1, 2, 3))
        ),
        PeerTarget("inference, share of the FMA peak, B=256", 70, 100, _peak_share, "%"),
        *(
            PeerTarget(f"memory of {name} vs torch eager", 20, 10, _memory_share(name), "%", at_most=True)
            for name in (TRAIN_STEP.name, FUSE_SGD.name)
        ),
        *(
            PeerTarget(
                f"{network.name}, {direction} vs the best peer, worst B",
                1,
                1.5,
                _worst(network.name, direction),
            )
            for network in NETWORKS[1:]
            for direction in (TRAINING_STEP, INFERENCE)
        ),
        *(
            PeerTarget(f"2 threads vs 1, {direction}, B=256", 1.8, 1.95, _scaling(direction))
            for direction in (TRAINING_STEP, INFERENCE)
        ),
    ]


TARGETS = _targets()
