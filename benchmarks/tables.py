"""Markdown and JSON of what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from statistics import geometric_mean
from typing import Any

from benchmarks.engines import EAGER
from benchmarks.environment import environment_text
from benchmarks.measure import STEADY_SPREAD, Measurement
from benchmarks.memory import BATCH
from benchmarks.reports import THREADS, Findings, Report
from benchmarks.targets import ALL_PEERS, Targets
from benchmarks.tasks import threads_text

UNSTEADY = "~"  # before a figure whose runs differed much


def table(columns: Sequence[str], *rows: Sequence[str], text: Sequence[int] = (0,)) -> str:
    """A Markdown table, aligned as plain text too. text: the columns that stand to the left."""
    from tabulate import tabulate

    align = ["left" if column in text else "right" for column in range(len(columns))]
    return tabulate(rows, columns, "pipe", colalign=align, disable_numparse=True)


def significant(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def report_markdown(report: Report, findings: Findings) -> str:
    """Where and how it was measured, a section for each table, and what was wrong."""
    measurements = findings.measurements[report.name]
    parts = _head(report.title, [report], findings)
    for direction in dict.fromkeys(one.task.direction for one in measurements):
        for threads in THREADS:
            rows = findings.of(report.name, direction=direction, threads=threads)
            parts.append(f"## {direction}, {threads_text(threads)}")
            parts += _tables(report, rows, findings.peaks.get(threads))
    reasons = [f"- {reason}" for one in measurements for reason in one.wrong.values()]
    if reasons:
        parts += ["Wrong results, and therefore not timed:", "\n".join(reasons)]
    return _document(parts)


def _head(title: str, reports: Sequence[Report], findings: Findings) -> list[str]:
    """Where, when and how often these reports were measured, and what is missing."""
    facts = [environment_text(findings.environment)]
    facts += [f"{name} {version}" for name, version in findings.versions.items() if reports[0].has_peers]
    missing = [f"{name} ({reason})" for name, reason in findings.missing.items() if reports[0].has_peers]
    measurements = [one for report in reports for one in findings.measurements[report.name]]
    runs = [timing.runs for one in measurements for timing in one.timings.values()]
    unsteady = sum(not one.is_steady(*one.timings) for one in measurements)
    return [
        f"# {title}",
        f"{', '.join(facts)}. Medians of {min(runs)} to {max(runs)} runs. {unsteady} of {len(measurements)} "
        f"cases unsteady ({UNSTEADY}): quartiles more than {STEADY_SPREAD:g}x apart.",
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
    ]


def _tables(report: Report, measurements: Sequence[Measurement], peak: float | None) -> list[str]:
    """Times, and rates beside the peak of the CPU, of every task on every engine."""
    names = [one.name for one in report.engines if any(one.name in row.timings for row in measurements)]
    ours, best = names[0], "the best peer" if report.has_peers else EAGER.name

    def microseconds(one: Measurement, name: str) -> str:
        return ("" if one.is_steady(name) else UNSTEADY) + significant(one.microseconds_per_image(name))

    def gigaflops(one: Measurement, name: str) -> str:
        share = f" ({one.gigaflops(name) / peak:.0%})" if peak else ""
        return f"{one.gigaflops(name):.3g}{share}" if one.task.operations else ""

    def row(one: Measurement, cell: Callable[[Measurement, str], str]) -> list[str]:
        return [one.label, *(cell(one, name) if name in one.timings else "" for name in names)]

    speedups = [one.speedup(ours, ALL_PEERS) for one in measurements]
    known = [speedup for speedup in speedups if speedup is not None]
    texts = [f"{speedup:.2f}x" if speedup is not None else "" for speedup in speedups]
    rows = [[*row(one, microseconds), text] for one, text in zip(measurements, texts, strict=True)]
    parts = ["Microseconds per image:", table(["", *names, f"{ours} vs {best}"], *rows)]
    if known:
        parts.append(
            f"Geometric mean of the speed-ups {geometric_mean(known):.2f}x, worst {min(known):.2f}x."
        )
    if any(one.task.operations for one in measurements):
        share = f", and their share of this run's multiply-add peak ({peak:.0f} GFLOP/s)" if peak else ""
        parts.append(f"GFLOP/s, counting the operations of the plain method{share}:")
        parts.append(table(["", *names], *(row(one, gigaflops) for one in measurements)))
    return parts


def targets_markdown(targets: Targets, findings: Findings) -> str:
    """Every target with what was measured, how many are met, and what else they rest on."""
    columns, rows, verdicts = ["target", "must", "aim"], [], []
    for threads in THREADS:
        columns += [threads_text(threads), "verdict"]
    for target in targets.targets:
        row = [target.name, *(f"{limit:g}{target.unit}" for limit in (target.must, target.aim))]
        for threads in THREADS:
            value = target.measured(findings, threads)
            verdicts.append(target.verdict(value))
            row += [target.text(value), "" if value is None else verdicts[-1]]
        rows.append(row)
    aims, musts, misses = (verdicts.count(verdict) for verdict in ("aim met", "must met", "missed"))
    parts = [
        *_head(targets.title, targets.reports, findings),
        table(columns, *rows, text=(0, *range(4, len(columns), 2))),
        f"Of {aims + musts + misses} figures {aims} meet the aim, {musts} the must alone, {misses} miss it.",
    ]
    if targets.has_peers and findings.peaks:
        peaks = [f"{rate:.0f} GFLOP/s on {threads_text(number)}" for number, rate in findings.peaks.items()]
        parts.append(f"Multiply-add peak: {', '.join(peaks)}.")
    if targets.has_peers and findings.memory:
        parts += [
            f"Memory of a training step on {BATCH:,} images at its peak, above weights and the batch:",
            table(["engine", "MiB"], *([name, f"{size:.1f}"] for name, size in findings.memory.items())),
        ]
    return _document(parts)


def _document(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def report_json(report: Report, findings: Findings) -> str:
    """All figures, times in seconds of one call with their quartiles."""
    records = [one.record() for one in findings.measurements[report.name]]
    return _json(findings, title=report.title, measurements=records)


def targets_json(targets: Targets, findings: Findings) -> str:
    """The targets' figures, with those for each number of threads as an object."""
    records = []
    for target in targets.targets:
        values = {threads: target.measured(findings, threads) for threads in THREADS}
        limits = {"target": target.name, "must": target.must, "aim": target.aim, "unit": target.unit}
        verdicts = {threads: target.verdict(value) for threads, value in values.items()}
        records.append({**limits, "measured_by_threads": values, "verdict_by_threads": verdicts})
    return _json(findings, title=targets.title, targets=records, training_memory_mib=findings.memory)


def _json(findings: Findings, **content: Any) -> str:
    head = {"environment": findings.environment, "peak_gigaflops_by_threads": findings.peaks}
    return json.dumps(head | content, indent=2) + "\n"
