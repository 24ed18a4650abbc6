"""The comparison with the peers, of those that are installed: what it checks, times and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from torch import Tensor

from lenet_ext import benchmark
from lenet_ext.benchmark import run as run_module
from lenet_ext.benchmark.cases import INFERENCE, TRAINING_STEP, dense_operations
from lenet_ext.benchmark.measure import WrongResult
from lenet_ext.benchmark.peers import run as peers_run
from lenet_ext.benchmark.peers.engines import Engine, Training
from lenet_ext.benchmark.peers.measure import PeerMeasurement, measure
from lenet_ext.benchmark.peers.memory import ENGINES as MEMORY_ENGINES
from lenet_ext.benchmark.peers.memory import training_memory
from lenet_ext.benchmark.peers.networks import LENET, NETWORKS, Network, Task
from lenet_ext.benchmark.peers.peak import measured_peak
from lenet_ext.benchmark.peers.registry import ENGINES
from lenet_ext.benchmark.peers.targets import TARGETS, Findings, PeerTarget
from lenet_ext.benchmark.peers.torch_engines import EAGER, FUSE, TRAIN_STEP, Autograd, TorchEngine
from lenet_ext.benchmark.timing import Effort, Timing, time_in_turns

BRIEF = Effort(seconds=0, fewest=2, most=2)
# torch.compile takes too long to compile for a test of each engine.
INSTALLED = [engine for engine in ENGINES if engine.missing() is None and not engine.compiles]


def small(layers: Any) -> torch.nn.Module:
    return torch.nn.Sequential(
        layers.Conv2d(2, 3, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        torch.nn.Flatten(),
        layers.Linear(3 * 16, 16),
        layers.ReLU(),
        layers.Linear(16, 4),
    )


SMALL = Network("small", "a small network", (2, 8, 8), 4, small, batches=(1, 3), quick=(3,))


@pytest.mark.parametrize("direction", [INFERENCE, TRAINING_STEP])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_a_task_is_timed_on_every_engine(direction: str, batch: int, number: int, threads: None) -> None:
    task = Task(network=SMALL, batch=batch, direction=direction, threads=number)
    one = measure(task, INSTALLED, BRIEF)
    assert not one.wrong
    assert all(timing.runs == 2 and timing.median > 0 for timing in one.timings.values())
    assert {EAGER.name, TRAIN_STEP.name if direction == TRAINING_STEP else FUSE.name} <= one.timings.keys()
    for engine in INSTALLED:
        prepared = engine.training(task) if direction == TRAINING_STEP else engine.inference(task)
        assert (engine.name in one.timings) == (prepared is not None)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_all_networks_can_be_fused(network: Network) -> None:
    task = Task(network=network, batch=2, direction=INFERENCE, threads=1)
    one = measure(task, [engine for engine in INSTALLED if engine.ours], BRIEF)
    assert FUSE.name in one.timings


class SpoiltStep(Autograd):
    """Trains on gradients of the first layer that are zero."""

    def __call__(self) -> Tensor:
        loss = super().__call__()
        with torch.no_grad():
            self._parameters[0].add_(self._optimizer.state[self._parameters[0]]["momentum_buffer"], alpha=0.1)
        return loss


class Spoilt(TorchEngine):
    def __init__(self, *, ours: bool) -> None:
        super().__init__("spoilt", lambda model, _: torch.nn.Sequential(model, torch.nn.Tanh()), ours=ours)

    def training(self, task: Task) -> Training:
        model = task.model()
        return SpoiltStep(model, model.parameters(), task.images(), task.labels())


@pytest.mark.parametrize(
    ("direction", "what"),
    [(INFERENCE, "the logits differ"), (TRAINING_STEP, "the updates of parameter 0 differ")],
)
def test_wrong_results_are_not_timed(direction: str, what: str) -> None:
    task = Task(network=SMALL, batch=3, direction=direction, threads=1)
    one = measure(task, [EAGER, Spoilt(ours=False)], BRIEF)
    assert one.timings.keys() == {EAGER.name}
    assert what in one.wrong["spoilt"]
    with pytest.raises(WrongResult, match=what):
        measure(task, [Spoilt(ours=True)], BRIEF)


def test_torch_compile_is_told_which_batches_to_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic: list[bool] = []
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: dynamic.append(options["dynamic"]) or model
    )
    compiled = [engine for engine in ENGINES if engine.compiles]
    for direction in (INFERENCE, TRAINING_STEP):
        task = Task(network=SMALL, batch=3, direction=direction, threads=1)
        assert measure(task, compiled, BRIEF).timings.keys() == {"torch.compile"}
    assert dynamic == [False, True]


def test_slow_calls_take_part_in_fewer_rounds() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        sleep(seconds)

    slow, quick = time_in_turns(
        [lambda: call("slow", 0.06), lambda: call("quick", 0.001)], Effort(0.2, fewest=2, most=8)
    )
    assert (slow.runs, quick.runs) == (2, 8)
    first, last = (i for i, name in enumerate(order) if name == "slow" and "quick" in order[:i])
    assert "quick" in order[first:last]  # they alternate: none is timed first, and the other after it


def test_operations_of_a_network() -> None:
    """conv 2 * 64 * 3 * 18, linear 2 * 48 * 16 and 2 * 16 * 4."""
    convolution, linear = 6912, 1664
    assert dense_operations(small(torch.nn), (3, 2, 8, 8), training=False) == 3 * (convolution + linear)
    assert dense_operations(small(torch.nn), (3, 2, 8, 8), training=True) == 3 * (
        2 * convolution + 3 * linear
    )


def test_the_peak_is_one_of_a_cpu() -> None:
    peak = measured_peak(1)
    if peak is None:
        pytest.skip("no C++ compiler")
    assert 1 < peak < 1000  # GFLOP/s of one core


def test_memory_of_a_step() -> None:
    memory = training_memory(256)
    if not memory:
        pytest.skip("this system does not tell")
    assert 0 < memory[TRAIN_STEP.name] < memory[EAGER.name]
    assert memory[EAGER.name] > 256 * 6 * 28 * 28 * 4 / 2**20  # the first activation alone


def findings(seconds: Mapping[str, float]) -> Findings:
    """Every task of the targets, each engine taking `seconds`, half as long on two threads."""
    measurements = []
    for network in NETWORKS:
        for direction in (INFERENCE, TRAINING_STEP):
            for batch in network.batches:
                for number in (1, 2):
                    timings = {name: Timing(*3 * [value / number], 9, 1) for name, value in seconds.items()}
                    task = Task(network=network, batch=batch, direction=direction, threads=number)
                    measurements.append(PeerMeasurement(task, timings))
    memory = {"lenet_ext TrainStep": 5.0, "lenet_ext fuse + SGD": 30.0, "torch eager": 100.0}
    return Findings(measurements, {1: 100.0, 2: 200.0}, memory)


def test_targets_state_what_was_measured() -> None:
    ours = {engine.name: 1.0 for engine in ENGINES if engine.ours}
    found = findings({**ours, "torch eager": 9.0, "ONNX Runtime": 3.0})
    reached = {target.name: [target.measured(found, number) for number in (1, 2)] for target in TARGETS}
    verdicts = {target.name: target.verdict(target.measured(found, 1)) for target in TARGETS}
    assert reached["TrainStep vs torch eager, B=256"] == [9, 9]
    assert verdicts["TrainStep vs torch eager, B=256"] == "aim met"
    assert verdicts["TrainStep vs torch eager, B=1"] == "MISSED"
    assert verdicts["TrainStep vs the best peer, B=64"] == "MISSED"
    assert reached["inference vs the best compiler, B=64"] == [3, 3]
    assert verdicts["inference vs the best compiler, B=64"] == "must met"
    assert reached["TrainStep vs JAX jit, B=1"] == [None, None]
    assert verdicts["TrainStep vs JAX jit, B=1"] == "not measured"
    assert reached["memory of lenet_ext TrainStep vs torch eager"] == [5, None]
    assert verdicts["memory of lenet_ext TrainStep vs torch eager"] == "aim met"
    assert verdicts["memory of lenet_ext fuse + SGD vs torch eager"] == "MISSED"
    assert reached["2 threads vs 1, inference, B=256"] == [None, 2]
    operations = Task(network=LENET, batch=256, direction=INFERENCE, threads=1).operations
    assert reached["inference, share of the FMA peak, B=256"] == [pytest.approx(operations / 1e9), None]


@pytest.mark.parametrize(("value", "verdict"), [(21, "MISSED"), (20, "must met"), (10, "aim met")])
def test_less_is_better_where_a_target_says_so(value: float, verdict: str) -> None:
    assert PeerTarget("", 20, 10, lambda *_: None, "%", at_most=True).verdict(value) == verdict


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole comparison on one tiny network, really measured, with the engines that start quickly."""
    monkeypatch.setattr(peers_run, "QUICK", BRIEF)
    monkeypatch.setattr(peers_run, "NETWORKS", (replace(SMALL, name="lenet"),))
    memory = {engine.name: 8.0 for engine in MEMORY_ENGINES}
    monkeypatch.setattr(peers_run, "training_memory", lambda batch: memory)
    monkeypatch.setattr(peers_run, "measured_peak", lambda threads: 100.0 * threads)
    monkeypatch.setattr(run_module, "keep_freed_memory", lambda: None)  # it would outlive the test


@pytest.mark.usefixtures("tiny")
def test_reports_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent(Engine):
        name, package = "Nobody's engine", "lenet_ext_absent"

    monkeypatch.setattr(peers_run, "ENGINES", (*peers_run.ENGINES, Absent()))
    benchmark.run_benchmarks(quick=True, out=tmp_path, only=("peers",))
    printed = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"peers_lenet.{kind}" for kind in ("md", "json", "png")),
        *(f"peers.{kind}" for kind in ("md", "json")),
    }
    text = (tmp_path / "peers_lenet.md").read_text()
    assert text.partition("\n![")[0] in printed
    assert "Nobody's engine (not installed)" in text
    assert "torch.compile (left out of a quick run)" in text
    for engine in INSTALLED:
        assert f"| {engine.name} " in text
    record = json.loads((tmp_path / "peers_lenet.json").read_text())
    assert len(record["measurements"]) == 4
    assert all(math.isfinite(one["timings"]["torch eager"]["median"]) for one in record["measurements"])
    assert (tmp_path / "peers_lenet.png").read_bytes().startswith(b"\x89PNG")
    targets = json.loads((tmp_path / "peers.json").read_text())["targets"]
    verdicts = {one["target"]: one["verdict_by_threads"]["1"] for one in targets}
    assert verdicts["memory of lenet_ext TrainStep vs torch eager"] == "MISSED"  # as much as eager
    assert verdicts["TrainStep vs torch eager, B=256"] == "not measured"
    assert "MISSED" in (tmp_path / "peers.md").read_text()
