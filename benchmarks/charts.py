"""Charts of speed-ups over native torch or each peer: horizontal bars on a logarithmic axis, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.engines import LAYERS
from benchmarks.environment import environment_text
from benchmarks.reports import THREADS, Findings, Report
from benchmarks.tables import significant
from benchmarks.targets import ALL_PEERS, FASTEST, NATIVE, Targets
from benchmarks.tasks import threads_text

# Blue and orange differ to every kind of colour vision, and in brightness. One for each number of threads.
COLORS = ("#1f5fa8", "#f2a154")
INK, GRID = "#333333", "#dddddd"
WIDTH_INCHES, DPI = 9, 150  # readable where a page shows it 800 pixels wide
LABEL_SPACE = 2.0  # beyond the longest bars, as a factor, for the figures at their ends
ROW_INCHES, MARGIN_INCHES = 0.34, 1.5
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color", "axes.titlecolor"), INK),
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{"axes.titlelocation": "left", "axes.titlesize": 10, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5},
    **{"axes.grid": True, "axes.grid.axis": "x", "grid.color": GRID, "axes.axisbelow": True},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False, "legend.title_fontsize": 7.5},
}
TARGET_LINES: Sequence[tuple[str, Literal["solid", "dotted"]]] = (("must", "solid"), ("aim", "dotted"))


@dataclass(frozen=True)
class Bars:
    """A row's speed-ups, one for each series; None leaves one out. must, aim: targets, which lines show."""

    label: str
    values: Sequence[float | None]
    must: float | None = None
    aim: float | None = None


def draw(source: Report | Targets, findings: Findings) -> bytes:
    """Of all figures that are speed-ups, with a bar for each number of threads."""
    if isinstance(source, Targets):
        rows = [
            Bars(one.name, [one.measured(findings, number) for number in THREADS], one.must, one.aim)
            for one in source.targets
            if one.unit == "x"
        ]
        title, panels = source.title, {"": rows}
    elif source.has_peers:
        cases = dict.fromkeys(
            (one.task.direction, one.task.batch) for one in findings.measurements[source.name]
        )
        panels = {f"{way}, B={batch}": _peer_rows(source, way, batch, findings) for way, batch in cases}
        title = f"{source.title}: times as fast as each"
    else:
        directions = dict.fromkeys(one.task.direction for one in findings.measurements[source.name])
        panels = {direction: _rows(source, direction, findings) for direction in directions}
        title = f"{source.title}: speed-up over native torch"
    caption = f"medians, logarithmic axis; {environment_text(findings.environment)}"
    return bar_chart(title, caption, panels, [threads_text(number) for number in THREADS])


def _rows(report: Report, direction: str, findings: Findings) -> list[Bars]:
    """One for each task, of our layers."""
    speedups: dict[str, list[float | None]] = {}
    for one in findings.of(report.name, direction=direction):  # whose numbers of threads follow each other
        speedups.setdefault(one.label, []).append(one.speedup(LAYERS.name, NATIVE))
    return [Bars(label, values) for label, values in speedups.items() if any(values)]


def _peer_rows(report: Report, direction: str, batch: int, findings: Findings) -> list[Bars]:
    """One for each peer that takes part in the report, of the fastest of ours over it."""
    timed = {name for one in findings.of(report.name) for name in one.timings}
    found = findings.of(report.name, direction=direction, batch=batch)
    return [
        Bars(name, [one.speedup(FASTEST[direction], [name]) for one in found])
        for name in ALL_PEERS
        if name in timed
    ]


def bar_chart(title: str, caption: str, panels: dict[str, list[Bars]], series: Sequence[str]) -> bytes:
    """Panels by title, side by side; `series` names the bars of each row."""
    height = MARGIN_INCHES + ROW_INCHES * max(map(len, panels.values()))
    with rc_context(STYLE):
        figure = Figure((WIDTH_INCHES, height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        all_labels = [[row.label for row in rows] for rows in panels.values()]
        for axes, (name, rows), labels in zip(all_axes, panels.items(), all_labels, strict=True):
            _draw(axes, rows, series)
            axes.set_title(name)
            hidden = axes is not all_axes[0] and labels == all_labels[0]
            axes.set_yticks(range(len(rows)), [""] * len(rows) if hidden else labels)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", title=caption, alignment="left", ncols=4)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()


def _draw(axes: Axes, rows: Sequence[Bars], series: Sequence[str]) -> None:
    known = [value for row in rows for value in (*row.values, row.aim) if value]
    least, most, height = min(0.8, *known), max(2, *known), 0.8 / len(series)
    for number, name in enumerate(series):
        shown = [(place, row, row.values[number]) for place, row in enumerate(rows)]
        bars = axes.barh(
            [place - 0.4 + (number + 0.5) * height for place, _, _ in shown],
            [(value or 1) - 1 for _, _, value in shown],
            height,
            left=1,
            color=COLORS[number],
            label=name,
        )
        texts = [f"{significant(value)}x" if value else "" for _, _, value in shown]
        axes.bar_label(bars, texts, padding=3, fontsize=7.5)
    for name, style in TARGET_LINES:
        lines = [(getattr(row, name), place) for place, row in enumerate(rows) if getattr(row, name)]
        if lines:
            limits, places = zip(*lines, strict=True)
            begins, ends = ([place + side for place in places] for side in (-0.45, 0.45))
            axes.vlines(limits, begins, ends, color=INK, linestyles=style, label=name)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set(xscale="log", xlim=(least / LABEL_SPACE, most * LABEL_SPACE))
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}x")
