"""Markdown and JSON of measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import geometric_mean
from typing import Any

from lenet_ext.benchmark.environment import Environment
from lenet_ext.benchmark.measure import STEADY_SPREAD, Measurement
from lenet_ext.benchmark.reports import Report
from lenet_ext.benchmark.targets import Measurements, TargetResult
from lenet_ext.benchmark.timing import Timing

COLUMNS = (
    "case",
    "batch",
    "direction",
    "speed-up",
    "ours, us/image",
    "native, us/image",
    "ours, GFLOP/s",
    "native, GFLOP/s",
    "runs",
)

UNSTEADY = "~"  # before a speed-up whose runs differed much


def threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def report_markdown(report: Report, measurements: Sequence[Measurement], environment: Environment) -> str:
    """A table for each number of threads; "runs" is how many a median is over."""
    parts = [f"# {report.title}"]
    for threads in _threads(measurements):
        of_threads = [one for one in measurements if one.threads == threads]
        speedups = [one.speedup for one in of_threads]
        parts += [
            f"## {threads_text(threads)}",
            f"{environment}, {threads_text(threads)}. Medians over the runs.",
            markdown_table(COLUMNS, [_row(one) for one in of_threads], text_columns=(0, 2)),
            f"Geometric mean {geometric_mean(speedups):.2f}x, worst {min(speedups):.2f}x. "
            + _steadiness(of_threads),
        ]
    return "\n\n".join(parts) + "\n"


def report_json(report: Report, measurements: Sequence[Measurement], environment: Environment) -> str:
    """All figures, times in seconds of one call with their quartiles."""
    content = {
        "title": report.title,
        "environment": asdict(environment),
        "measurements": [_record(one) for one in measurements],
    }
    return json.dumps(content, indent=2) + "\n"


def targets_markdown(
    results: Sequence[TargetResult], measurements: Measurements, environment: Environment
) -> str:
    """Every target with its measured speed-up, and how many of them are met."""
    threads = list(results[0].speedups)
    columns = ["speed-up over native torch", "must", "aim"]
    for number in threads:
        columns += [threads_text(number), "verdict"]
    rows = []
    for result in results:
        row = [result.target.name, f"{result.target.must:g}x", f"{result.target.aim:g}x"]
        for number in threads:
            row += [f"{result.speedups[number]:.2f}x", result.verdicts[number]]
        rows.append(row)
    verdicts = [verdict for result in results for verdict in result.verdicts.values()]
    counts = {verdict: verdicts.count(verdict) for verdict in ("aim met", "must met", "missed")}
    cases = [one for report in measurements.values() for one in report]
    runs = [one.ours.runs for one in cases]
    return "\n\n".join(
        [
            "# Targets and what was measured",
            f"{environment}, {' and '.join(map(threads_text, threads))}. "
            f"Medians of {min(runs)} to {max(runs)} runs a case. {_steadiness(cases)}",
            markdown_table(columns, rows, text_columns=(0, *range(4, len(columns), 2))),
            f"Of {len(verdicts)} figures {counts['aim met']} meet the aim, {counts['must met']} the must "
            f"alone, and {counts['missed']} miss it.\n",
        ]
    )


def targets_json(results: Sequence[TargetResult], environment: Environment) -> str:
    """The targets' figures, with those for each number of threads as an object."""
    targets = [
        {
            "target": result.target.name,
            "must": result.target.must,
            "aim": result.target.aim,
            "speedup_by_threads": result.speedups,
            "verdict_by_threads": result.verdicts,
        }
        for result in results
    ]
    return json.dumps({"environment": asdict(environment), "targets": targets}, indent=2) + "\n"


def _threads(measurements: Sequence[Measurement]) -> list[int]:
    return sorted({one.threads for one in measurements})


def _steadiness(measurements: Sequence[Measurement]) -> str:
    unsteady = sum(not one.is_steady for one in measurements)
    if not unsteady:
        return "All cases steady."
    limit = f"quartiles more than {STEADY_SPREAD:g}x apart"
    return f"{unsteady} of {len(measurements)} cases unsteady ({UNSTEADY}): {limit}."


def _row(one: Measurement) -> list[str]:
    def rate(timing: Timing) -> str:
        gigaflops = one.gigaflops(timing)
        return "" if gigaflops is None else f"{gigaflops:.1f}"

    return [
        one.case.name,
        str(one.case.batch),
        one.case.direction,
        f"{'' if one.is_steady else UNSTEADY}{one.speedup:.2f}x",
        f"{one.microseconds_per_image(one.ours):.3g}",
        f"{one.microseconds_per_image(one.native):.3g}",
        rate(one.ours),
        rate(one.native),
        f"{one.ours.runs}",
    ]


def _record(one: Measurement) -> dict[str, Any]:
    return {
        "case": one.case.name,
        "batch": one.case.batch,
        "direction": one.case.direction,
        "threads": one.threads,
        "operations": one.case.operations,
        "speedup": one.speedup,
        "steady": one.is_steady,
        "ours": asdict(one.ours),
        "native": asdict(one.native),
    }


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int]) -> str:
    """A Markdown table that is also aligned as plain text; numbers stand to the right."""
    widths = [max(len(row[column]) for row in (columns, *rows)) for column in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column in text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(
        ":" + "-" * (width + 1) if column in text_columns else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    )
    return "\n".join([line(columns), f"|{rule}|", *map(line, rows)])
