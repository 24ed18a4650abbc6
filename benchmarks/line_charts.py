"""Charts of times over batch sizes, a line for each engine, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from benchmarks.charts import DPI, INK, STYLE, WIDTH_INCHES
from benchmarks.engines import Engine
from benchmarks.environment import environment_text
from benchmarks.measure import Measurement
from benchmarks.reports import THREADS, Findings, Report
from benchmarks.tasks import threads_text

OURS: Sequence[dict[str, Any]] = (
    {"color": "#1f5fa8", "linewidth": 2.6, "zorder": 4},
    {"color": "#1f5fa8", "linewidth": 1.4, "linestyle": "--", "zorder": 3},
    {"color": "#1f5fa8", "linewidth": 1.4, "linestyle": ":", "zorder": 3},
)
# Of peers: what differs is said by the name at a line's end, not by its colour alone.
PEERS = ("#8c6d31", "#c9ad6e", "#d1605e", "#8c6bb1", "#e58a2e", "#4f9a5f", "#8a8a8a")
PANEL_INCHES = 3.4
LABEL_GAP = 0.05  # between the names at the ends of lines, of a panel's height
NAMES_SHARE = 1.6  # of the width of the lines: that and the names
LARGEST_BATCH = 256  # the times of larger ones are those of this one
NAMED_BATCHES = (1, 8, 64, 256)  # where there is room for a name and a speed-up; the others have points alone


def draw_lines(report: Report, findings: Findings) -> bytes:
    """Microseconds per image of each engine: a column for each direction, a row for a number of threads."""
    measurements = [one for one in findings.measurements[report.name] if one.task.batch <= LARGEST_BATCH]
    directions = list(dict.fromkeys(one.task.direction for one in measurements))
    with rc_context({**STYLE, "axes.grid.axis": "both", "axes.titlesize": 9.5}):
        figure = Figure((WIDTH_INCHES, 1.0 + PANEL_INCHES * len(THREADS)), layout="constrained")
        title = f"{report.title}: microseconds per image, less is better"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        grid = figure.subplots(len(THREADS), len(directions), squeeze=False)
        for threads, row in zip(THREADS, grid, strict=True):
            for direction, axes in zip(directions, row, strict=True):
                facts = {"direction": direction, "threads": threads}
                shown = [one for one in measurements if facts.items() <= vars(one.task).items()]
                _draw(axes, report.engines, shown)
                axes.set_title(f"{direction}, {threads_text(threads)}")
        caption = (
            "medians, logarithmic axes; below ours: times as fast as the best peer\n"
            f"{environment_text(findings.environment)}"
        )
        figure.supxlabel(caption, x=0.01, ha="left", fontsize=7.5)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()


def _draw(axes: Axes, engines: Sequence[Engine], measurements: Sequence[Measurement]) -> None:
    ours, peers = cycle(OURS), cycle(PEERS)
    ends: list[tuple[float, float, str, Any]] = []
    for engine in engines:
        points = [
            (one.task.batch, one.microseconds_per_image(engine.name))
            for one in measurements
            if engine.name in one.timings
        ]
        color = "" if engine.ours else next(peers)  # of a peer the same in every panel
        if points:
            style = next(ours) if engine.ours else {"color": color, "linewidth": 1.4}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, **style)
            ends.append((*points[-1], engine.name, style))
    last = max((one.task.batch for one in measurements), default=1)
    axes.set(xscale="log", yscale="log", xlim=(0.7, last**NAMES_SHARE * 1.2))
    axes.margins(y=0.1)
    axes.autoscale_view(scalex=False)  # at once: names are placed within these limits
    axes.xaxis.set_major_locator(FixedLocator(NAMED_BATCHES))
    axes.xaxis.set_major_formatter("B={x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    _name(axes, ends)
    _state_speedups(axes, engines, measurements)


def _state_speedups(axes: Axes, engines: Sequence[Engine], measurements: Sequence[Measurement]) -> None:
    """Of the fastest of ours over the best peer, below its points."""
    peers = [engine.name for engine in engines if not engine.ours]
    for one in measurements:
        best = next((engine.name for engine in engines if engine.ours and engine.name in one.timings), "")
        speedup = one.speedup(best, peers)
        if speedup is not None and one.task.batch in NAMED_BATCHES:
            axes.annotate(
                f"{speedup:.1f}x",
                (one.task.batch, one.microseconds_per_image(best)),
                (0, -13),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                fontweight="bold",
                color=OURS[0]["color"],
            )


def _name(axes: Axes, ends: Sequence[tuple[float, float, str, Any]]) -> None:
    """The engines at the right ends of their lines, moved apart where these lie close."""
    to_share = axes.transData + axes.transAxes.inverted()
    places = [(*to_share.transform((batch, value)), name, style) for batch, value, name, style in ends]
    lowest: dict[float, float] = {}  # for the next name, by the place of the ends
    for x, y, name, style in sorted(places, key=lambda place: place[1]):
        share = max(y, lowest.get(x, 0.0))
        lowest[x] = share + LABEL_GAP
        is_best = style["linewidth"] > 2
        axes.annotate(
            name,
            (x, y),
            (x + 0.05, share),
            xycoords="axes fraction",
            fontsize=7.5,
            color=INK if is_best else style["color"],
            fontweight="bold" if is_best else "normal",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": style["color"], "linewidth": 0.6},
        )
