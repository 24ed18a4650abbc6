"""Markdown and JSON of what was measured beside the peers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lenet_ext.benchmark.environment import Environment
from lenet_ext.benchmark.measure import STEADY_SPREAD
from lenet_ext.benchmark.peers.measure import PeerMeasurement
from lenet_ext.benchmark.peers.memory import BATCH
from lenet_ext.benchmark.peers.networks import Network
from lenet_ext.benchmark.peers.registry import ENGINES
from lenet_ext.benchmark.peers.targets import OURS, PEERS, TARGETS, Findings
from lenet_ext.benchmark.tables import UNSTEADY, markdown_table, threads_text

Missing = Mapping[str, str]  # why an engine did not run, by its name


def network_markdown(
    network: Network, findings: Findings, environment: Environment, versions: str, missing: Missing
) -> str:
    """For each direction and number of threads: times, and rates beside the peak of the CPU."""
    parts = [
        f"# {network.title[0].upper()}{network.title[1:]}: beside every peer",
        f"{environment}{versions}. Medians; columns are batch sizes. {UNSTEADY} marks runs whose quartiles "
        f"lie more than {STEADY_SPREAD:g}x apart.",
        *_missing_text(missing),
    ]
    of_network = [one for one in findings.measurements if one.task.network == network]
    for direction in dict.fromkeys(one.task.direction for one in of_network):
        for threads in findings.threads:
            row = [
                one for one in of_network if (one.task.direction, one.task.threads) == (direction, threads)
            ]
            peak = findings.peaks.get(threads)
            parts += [
                f"## {direction}, {threads_text(threads)}",
                "Microseconds per image:",
                _times(row, OURS[direction]),
                _peak_text(peak),
                _by_batch(row, lambda one, name, peak=peak: _rate(one, name, peak)),  # type: ignore[misc]
            ]
    parts += _wrong_text(of_network)
    return "\n\n".join(parts) + "\n"


def network_json(network: Network, findings: Findings, environment: Environment) -> str:
    """All figures, times in seconds of one call with their quartiles."""
    records = [_record(one) for one in findings.measurements if one.task.network == network]
    content = {
        "network": network.title,
        "environment": asdict(environment),
        "peak_gigaflops_by_threads": findings.peaks,
        "measurements": records,
    }
    return json.dumps(content, indent=2) + "\n"


def targets_markdown(findings: Findings, environment: Environment, versions: str, missing: Missing) -> str:
    """Every target with what was measured, then the peaks and the memory they rest on."""
    threads = findings.threads
    columns = ["target", "must", "aim"]
    for number in threads:
        columns += [threads_text(number), "verdict"]
    rows, verdicts = [], []
    for target in TARGETS:
        cells = [target.name, *(f"{limit:g}{target.unit}" for limit in (target.must, target.aim))]
        for number in threads:
            value = target.measured(findings, number)
            verdicts.append(target.verdict(value))
            cells += [target.text(value), "" if value is None else verdicts[-1]]
        rows.append(cells)
    counts = {verdict: verdicts.count(verdict) for verdict in ("aim met", "must met", "MISSED")}
    runs = [timing.runs for one in findings.measurements for timing in one.timings.values()]
    return (
        "\n\n".join(
            [
                "# The fused engine beside its peers: targets and what was measured",
                f"{environment}{versions}. Medians of {min(runs)} to {max(runs)} runs. The LeNet where "
                "no other network is named; an empty cell was not measured.",
                *_missing_text(missing),
                markdown_table(columns, rows, text_columns=(0, *range(4, len(columns), 2))),
                f"Of {sum(counts.values())} figures {counts['aim met']} meet the aim, {counts['must met']} "
                f"the must alone, and {counts['MISSED']} miss it.",
                *_memory_text(findings),
            ]
        )
        + "\n"
    )


def targets_json(findings: Findings, environment: Environment) -> str:
    targets = []
    for target in TARGETS:
        values = {number: target.measured(findings, number) for number in findings.threads}
        targets.append(
            {
                "target": target.name,
                "must": target.must,
                "aim": target.aim,
                "unit": target.unit,
                "measured_by_threads": values,
                "verdict_by_threads": {number: target.verdict(value) for number, value in values.items()},
            }
        )
    content = {
        "environment": asdict(environment),
        "peak_gigaflops_by_threads": findings.peaks,
        "training_memory_mib": findings.memory,
        "targets": targets,
    }
    return json.dumps(content, indent=2) + "\n"


def significant(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


Cell = Callable[[PeerMeasurement, str], str]


def _by_batch(row: Sequence[PeerMeasurement], cell: Cell, more: Sequence[Sequence[str]] = ()) -> str:
    """Engines down, batch sizes across."""
    names = [engine.name for engine in ENGINES if any(engine.name in one.timings for one in row)]
    lines = [[name, *(cell(one, name) if name in one.timings else "" for one in row)] for name in names]
    return markdown_table(["", *(f"B={one.task.batch}" for one in row)], [*lines, *more], text_columns=(0,))


def _times(row: Sequence[PeerMeasurement], ours: str) -> str:
    def cell(one: PeerMeasurement, name: str) -> str:
        return f"{'' if one.is_steady(name) else UNSTEADY}{significant(one.microseconds_per_image(name))}"

    def ratio(one: PeerMeasurement) -> str:
        best = one.best(PEERS)
        return "" if best is None else f"{one.speedup(ours, best):.2f}x"

    return _by_batch(row, cell, [[f"{ours} vs the best peer", *map(ratio, row)]])


def _rate(one: PeerMeasurement, name: str, peak: float | None) -> str:
    rate = one.gigaflops(name)
    return f"{rate:.3g}" if peak is None else f"{rate:.3g} ({100 * rate / peak:.0f} %)"


def _peak_text(peak: float | None) -> str:
    counted = "GFLOP/s, counting the operations of the plain method"
    if peak is None:
        return f"{counted}:"
    return f"{counted}, and their share of the multiply-add peak measured in this run ({peak:.0f} GFLOP/s):"


def _missing_text(missing: Missing) -> list[str]:
    if not missing:
        return []
    return ["Not measured: " + ", ".join(f"{name} ({reason})" for name, reason in missing.items()) + "."]


def _wrong_text(measurements: Sequence[PeerMeasurement]) -> list[str]:
    reasons = [reason for one in measurements for reason in one.wrong.values()]
    if not reasons:
        return []
    return ["Wrong results, and therefore not timed:", "\n".join(f"- {reason}" for reason in reasons)]


def _memory_text(findings: Findings) -> list[str]:
    parts = []
    if findings.peaks:
        peaks = (f"{rate:.0f} GFLOP/s on {threads_text(number)}" for number, rate in findings.peaks.items())
        parts.append("Multiply-add peak: " + ", ".join(peaks) + ".")
    if findings.memory:
        rows = [[name, f"{size:.1f}"] for name, size in findings.memory.items()]
        parts += [
            f"Memory of a training step on {BATCH:,} images at its peak, above weights and the batch:",
            markdown_table(["engine", "MiB"], rows, text_columns=(0,)),
        ]
    return parts


def _record(one: PeerMeasurement) -> dict[str, Any]:
    return {
        "batch": one.task.batch,
        "direction": one.task.direction,
        "threads": one.task.threads,
        "operations": one.task.operations,
        "wrong": one.wrong,
        "timings": {name: asdict(timing) for name, timing in one.timings.items()},
    }
