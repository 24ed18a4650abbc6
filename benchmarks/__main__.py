"""`python -m benchmarks`: measures the reports, prints their tables, and writes them with --out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.measure import Measurement, measure
from benchmarks.memory import BATCH, training_memory
from benchmarks.peak import measured_peak
from benchmarks.reports import ENGINES, NETWORK_BATCH, REPORTS, THREADS, Findings, Report
from benchmarks.tables import report_json, report_markdown, targets_json, targets_markdown
from benchmarks.targets import TARGETS, Targets
from benchmarks.timing import FULL, QUICK, keep_freed_memory

QUICK_BATCHES = (1, NETWORK_BATCH, 64)  # of networks beside the peers


def main(arguments: Sequence[str] | None = None) -> None:
    names = list(dict.fromkeys(report.group for report in REPORTS))
    parser = argparse.ArgumentParser("python -m benchmarks", description="Time lenet_ext beside others.")
    parser.add_argument("--quick", action="store_true", help="fewer runs, batch sizes and engines")
    parser.add_argument("--out", type=Path, help="write tables, all figures and charts into this folder")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="REPORT", help=f"{', '.join(names)}; repeatable"
    )
    options = parser.parse_args(arguments)
    needed = ["numpy", "tabulate", *(["matplotlib"] if options.out else [])]
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        parser.error(f"{', '.join(absent)} is not installed: pip install -r benchmarks/requirements.txt")
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out {options.out}: cannot be made a folder: {error.strerror}")
    keep_freed_memory()
    run(options.quick, options.out, options.only or names)


def run(quick: bool, out: Path | None, only: Sequence[str]) -> None:
    """Measure the reports of these groups, and state the targets of which all reports were measured.

    out: an existing folder that gets each table as Markdown, JSON and a PNG chart; None writes nothing. Ends
    the program where a result of ours differs from native torch's.
    """
    findings, reports = Findings(environment()), [one for one in REPORTS if one.group in only]
    if any(report.has_peers for report in reports):
        _find_peers(findings, quick)
    for report in reports:
        findings.measurements[report.name] = _measure(report, quick, findings)
        _publish(out, report, findings, report_markdown(report, findings), report_json(report, findings))
    for targets in TARGETS:
        if all(report in reports for report in targets.reports):
            if targets.has_peers:
                _show_progress("memory")
                findings.memory = training_memory(BATCH)
                _show_progress("")
            texts = targets_markdown(targets, findings), targets_json(targets, findings)
            _publish(out, targets, findings, *texts)


def _find_peers(findings: Findings, quick: bool) -> None:
    """Which engines can take part, and what the CPU can do."""
    for engine in ENGINES:
        missing = "left out of a quick run" if quick and engine.compiles else engine.missing()
        if missing:
            findings.missing[engine.name] = missing
        elif engine.packages:
            findings.versions[engine.name] = engine.version()
    for threads in THREADS:
        peak = measured_peak(threads)
        if peak is not None:
            findings.peaks[threads] = peak


def _measure(report: Report, quick: bool, findings: Findings) -> list[Measurement]:
    engines = [engine for engine in report.engines if engine.name not in findings.missing]
    tasks = report.tasks
    if quick and report.has_peers:
        tasks = [task for task in tasks if task.batch in QUICK_BATCHES]
    measurements = []
    for number, task in enumerate(tasks, 1):
        _show_progress(f"{report.name} {number}/{len(tasks)}: {task}")
        one = measure(task, engines, QUICK if quick else FULL, apart=report.has_peers)
        for engine in engines:
            if engine.ours and engine.name in one.wrong:
                raise SystemExit(one.wrong[engine.name])
        measurements.append(one)
    _show_progress("")
    return measurements


def _publish(
    out: Path | None, source: Report | Targets, findings: Findings, markdown: str, json: str
) -> None:
    print(markdown, flush=True)
    if out is None:
        return
    from benchmarks.charts import draw  # which need matplotlib
    from benchmarks.line_charts import draw_lines

    if isinstance(source, Report) and source.is_over_batches:
        picture = draw_lines(source, findings)
    else:
        picture = draw(source, findings)
    (out / f"{source.name}.png").write_bytes(picture)
    (out / f"{source.name}.md").write_text(f"{markdown}\n![{source.name}]({source.name}.png)\n")
    (out / f"{source.name}.json").write_text(json)


def _show_progress(text: str) -> None:
    """One line on a terminal, written over by the next."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
