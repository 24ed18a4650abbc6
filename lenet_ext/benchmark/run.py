"""Runs reports: measures their cases, prints the tables, writes the files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lenet_ext.benchmark.environment import Environment, environment
from lenet_ext.benchmark.measure import Measurement, measure
from lenet_ext.benchmark.peers.run import TITLE as PEERS_TITLE
from lenet_ext.benchmark.peers.run import run_peers
from lenet_ext.benchmark.reports import REPORTS, Report
from lenet_ext.benchmark.tables import report_json, report_markdown, targets_json, targets_markdown
from lenet_ext.benchmark.targets import target_results
from lenet_ext.benchmark.timing import FULL, QUICK, Effort, keep_freed_memory

THREADS = (1, 2)


PEERS = "peers"
NAMES = (*REPORTS, PEERS)


def run_benchmarks(quick: bool, out: Path | None, only: Sequence[str] = NAMES) -> None:
    """Measure everything, print a table for each report and those of the targets.

    quick: about two minutes, with fewer runs and fewer peers. out: an existing folder that gets each table as
    Markdown, JSON and a PNG chart (which needs matplotlib); None writes nothing. only: the names of reports;
    the targets over native torch are stated only where all of these were measured.

    Raises `WrongResult` where a result differs from native torch's.
    """
    keep_freed_memory()
    machine, effort = environment(), QUICK if quick else FULL
    measurements = {name: run_report(REPORTS[name], effort, out, machine) for name in REPORTS if name in only}
    if len(measurements) == len(REPORTS):
        results = target_results(measurements)
        text = targets_markdown(results, measurements, machine)
        print(text)
        if out is not None:
            from lenet_ext.benchmark.figures import targets_figure

            _write(out, "summary", text, targets_json(results, machine), targets_figure(results, machine))
    if PEERS in only:
        run_peers(quick, out, machine, THREADS, _write, _show_progress)


def run_report(
    report: Report, effort: Effort, out: Path | None, machine: Environment, threads: Sequence[int] = THREADS
) -> list[Measurement]:
    """Measure, print and, with `out`, write one report."""
    measurements: list[Measurement] = []
    total = len(report.cases) * len(threads)
    for number in threads:
        for case in report.cases:
            _show_progress(f"{report.name} {len(measurements) + 1}/{total}: {case.name}, batch {case.batch}")
            measurements.append(measure(case, number, effort))
    _show_progress("")
    text = report_markdown(report, measurements, machine)
    print(text, flush=True)
    if out is not None:
        from lenet_ext.benchmark.figures import report_figure

        chart = report_figure(report, measurements, machine)
        _write(out, report.name, text, report_json(report, measurements, machine), chart)
    return measurements


def main(name: str) -> None:
    """The program of the scripts in `benchmarks/`: one report."""
    parser = argparse.ArgumentParser(description=PEERS_TITLE if name == PEERS else REPORTS[name].title)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--out", type=Path, help="the folder for the table, its figures and a chart")
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    run_benchmarks(options.quick, options.out, only=(name,))


def _write(out: Path, name: str, markdown: str, json: str, chart: bytes | None) -> None:
    if chart is not None:
        markdown += f"\n![{name}]({name}.png)\n"
        (out / f"{name}.png").write_bytes(chart)
    (out / f"{name}.md").write_text(markdown)
    (out / f"{name}.json").write_text(json)


def _show_progress(text: str) -> None:
    """One line on a terminal, written over by the next."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
