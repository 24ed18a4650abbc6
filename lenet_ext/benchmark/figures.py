"""Which bars the chart of a report, and that of the targets, shows."""

from __future__ import annotations

from collections.abc import Sequence

from lenet_ext.benchmark.charts import Bars, Panel, speedup_chart
from lenet_ext.benchmark.environment import Environment
from lenet_ext.benchmark.measure import Measurement
from lenet_ext.benchmark.reports import Report
from lenet_ext.benchmark.tables import threads_text
from lenet_ext.benchmark.targets import TargetResult

UNIT = "speed-up over native torch"


def report_figure(report: Report, measurements: Sequence[Measurement], environment: Environment) -> bytes:
    """A panel for each direction, a row for each case, a bar for each number of threads."""
    threads = sorted({one.threads for one in measurements})
    directions = list(dict.fromkeys(one.case.direction for one in measurements))
    labels = list(dict.fromkeys(_label(one) for one in measurements))
    speedups = {(one.case.direction, _label(one), one.threads): one.speedup for one in measurements}
    panels = [
        Panel(
            direction,
            [
                Bars(label, [speedups.get((direction, label, number)) for number in threads])
                for label in labels
            ],
        )
        for direction in directions
    ]
    return _figure(f"{report.title}: {UNIT}", environment, panels, threads)


def targets_figure(results: Sequence[TargetResult], environment: Environment) -> bytes:
    """A row for each target with its must and aim, a bar for each number of threads."""
    rows = [
        Bars(result.target.name, list(result.speedups.values()), result.target.must, result.target.aim)
        for result in results
    ]
    return _figure(f"lenet_ext: {UNIT}", environment, [Panel("", rows)], list(results[0].speedups))


def _figure(title: str, environment: Environment, panels: Sequence[Panel], threads: Sequence[int]) -> bytes:
    return speedup_chart(
        title, f"medians; {environment}", panels, [threads_text(number) for number in threads]
    )


def _label(one: Measurement) -> str:
    return f"{one.case.name}, B={one.case.batch}"
