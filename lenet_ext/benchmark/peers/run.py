"""Measures every network on every engine, prints the tables, writes the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lenet_ext.benchmark.cases import INFERENCE, TRAINING_STEP
from lenet_ext.benchmark.environment import Environment
from lenet_ext.benchmark.peers.engines import Engine
from lenet_ext.benchmark.peers.measure import measure
from lenet_ext.benchmark.peers.memory import BATCH, training_memory
from lenet_ext.benchmark.peers.networks import NETWORKS, Network, Task
from lenet_ext.benchmark.peers.peak import measured_peak
from lenet_ext.benchmark.peers.registry import ENGINES
from lenet_ext.benchmark.peers.tables import (
    Missing,
    network_json,
    network_markdown,
    targets_json,
    targets_markdown,
)
from lenet_ext.benchmark.peers.targets import Findings
from lenet_ext.benchmark.timing import Effort

TITLE = "The fused engine beside every peer: torch, ONNX Runtime, OpenVINO, JAX"
# Of a task, all engines together.
FULL = Effort(seconds=2.0, fewest=5, most=200)
QUICK = Effort(seconds=0.2, fewest=3, most=30)

Write = Callable[[Path, str, str, str, bytes | None], None]
Progress = Callable[[str], None]


def run_peers(
    quick: bool,
    out: Path | None,
    machine: Environment,
    threads: Sequence[int],
    write: Write,
    progress: Progress,
) -> Findings:
    """Measure, print and, with `out`, write a report for each network, and one of the targets.

    quick: fewer batch sizes and runs, and without what takes long to compile.

    Raises `WrongResult` where our results differ from torch eager's.
    """
    engines, missing = _usable(quick)
    versions = _versions(engines)
    peaks = {number: measured_peak(number) for number in threads}
    findings = Findings([], {number: peak for number, peak in peaks.items() if peak is not None})
    effort = QUICK if quick else FULL
    for network in NETWORKS:
        tasks = _tasks(network, network.quick if quick else network.batches, threads)
        for done, task in enumerate(tasks):
            progress(f"peers, {network.name} {done + 1}/{len(tasks)}: {task}")
            one = measure(task, engines, effort)
            findings = Findings([*findings.measurements, one], findings.peaks)
        progress("")
        text = network_markdown(network, findings, machine, versions, missing)
        print(text, flush=True)
        if out is not None:
            from lenet_ext.benchmark.peers.charts import network_chart

            chart = network_chart(network, findings, machine)
            write(out, f"peers_{network.name}", text, network_json(network, findings, machine), chart)
    progress("peers: memory")
    memory = training_memory(BATCH)
    progress("")
    findings = Findings(findings.measurements, findings.peaks, memory)
    text = targets_markdown(findings, machine, versions, missing)
    print(text, flush=True)
    if out is not None:
        write(out, "peers", text, targets_json(findings, machine), None)
    return findings


def _usable(quick: bool) -> tuple[list[Engine], Missing]:
    """The engines that run here, and why the others do not."""
    missing = {}
    for engine in ENGINES:
        reason = engine.missing() or ("left out of a quick run" if quick and engine.compiles else None)
        if reason is not None:
            missing[engine.name] = reason
    return [engine for engine in ENGINES if engine.name not in missing], missing


def _versions(engines: Sequence[Engine]) -> str:
    return "".join(f", {engine.name} {engine.version()}" for engine in engines if engine.package)


def _tasks(network: Network, batches: Sequence[int], threads: Sequence[int]) -> list[Task]:
    """The numbers of threads of one thing follow each other, so that they are compared under one load."""
    return [
        Task(network=network, batch=batch, direction=direction, threads=number)
        for direction in (INFERENCE, TRAINING_STEP)
        for batch in batches
        for number in threads
    ]
