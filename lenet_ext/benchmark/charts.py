"""Bars of speed-ups, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Blue and orange differ to every kind of colour vision, and in brightness.
COLORS = ("#1f5fa8", "#f2a154", "#5b9a8b", "#8c6bb1")
INK, GRID = "#333333", "#dddddd"
TICKS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
WIDTH_INCHES, DPI = 8, 150  # 1,200 pixels: readable where a page shows it 800 wide
ROW_INCHES, MARGIN_INCHES = 0.34, 1.45
LABEL_SPACE = 1.9  # beyond the longest bar, as a factor, for the figure at its end


@dataclass(frozen=True)
class Bars:
    """The speed-ups of one row, one for each number of threads; None leaves it out."""

    label: str
    speedups: Sequence[float | None]
    must: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Panel:
    title: str
    rows: Sequence[Bars]  # the same labels in every panel of a chart


def speedup_chart(title: str, caption: str, panels: Sequence[Panel], series: Sequence[str]) -> bytes:
    """Horizontal bars from 1 (as fast as native torch) on a logarithmic axis; `series` names a row's bars."""
    rows = len(panels[0].rows)
    figure = Figure(figsize=(WIDTH_INCHES, MARGIN_INCHES + ROW_INCHES * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    limits = _limits(panels)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        for position, row in enumerate(panel.rows):
            _draw_row(axes, position, row)
        _label_axes(axes, panel)
    has_targets = any(row.must is not None for panel in panels for row in panel.rows)
    legend = figure.legend(
        handles=_legend(series, has_targets),
        loc="outside lower left",
        title=caption,
        alignment="left",
        ncols=4,
        frameon=False,
        fontsize=9,
        title_fontsize=7.5,
    )
    legend.get_title().set_color(INK)
    return png(figure)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    values = [value for panel in panels for row in panel.rows for value in (*row.speedups, row.aim) if value]
    return min(0.8, min(values) / 1.15), max(2.0, max(values) * LABEL_SPACE)


def _draw_row(axes: Axes, position: int, row: Bars) -> None:
    height = 0.8 / len(row.speedups)
    for number, speedup in enumerate(row.speedups):
        if speedup is None:
            continue
        y = position - 0.4 + (number + 0.5) * height
        axes.barh(y, speedup - 1, height, left=1, color=COLORS[number], zorder=2)
        text = f"{speedup:.2f}x" if speedup < 10 else f"{speedup:.1f}x"
        style: dict[str, Any] = {"va": "center", "fontsize": 7.5, "color": INK}
        if row.must is None:
            axes.text(max(speedup, 1) * 1.04, y, text, **style)
        else:  # at the bar's end it would lie on a target's line
            axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), **style)
    for target, line in ((row.must, "-"), (row.aim, ":")):
        if target is not None:
            axes.plot([target, target], [position - 0.45, position + 0.45], line, color=INK, zorder=3)


def _label_axes(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", color=INK, fontsize=10)
    axes.axvline(1, color=INK, linewidth=1, zorder=3)
    axes.set_yticks(range(len(panel.rows)), [row.label for row in panel.rows])
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)  # the first row on top
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    style_axes(axes)


def style_axes(axes: Axes) -> None:
    """Grid and labels of horizontal bars, without a frame."""
    axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    axes.tick_params(colors=INK, length=0, labelsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(series: Sequence[str], targets: bool) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Patch(color=color, label=name) for color, name in zip(COLORS, series, strict=False)
    ]
    if targets:
        handles.append(Line2D([], [], color=INK, linestyle="-", label="must"))
        handles.append(Line2D([], [], color=INK, linestyle=":", label="aim"))
    return handles


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()
