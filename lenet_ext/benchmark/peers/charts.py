"""Bars of the time per image, shorter is better, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lenet_ext.benchmark.charts import COLORS, INK, WIDTH_INCHES, png, style_axes
from lenet_ext.benchmark.environment import Environment
from lenet_ext.benchmark.peers.measure import PeerMeasurement
from lenet_ext.benchmark.peers.networks import Network
from lenet_ext.benchmark.peers.registry import ENGINES
from lenet_ext.benchmark.peers.tables import significant
from lenet_ext.benchmark.peers.targets import Findings
from lenet_ext.benchmark.tables import threads_text

BAR_INCHES, MARGIN_INCHES, PANEL_INCHES = 0.26, 1.0, 0.5
LABEL_SPACE = 2.2  # beyond the longest bar, as a factor, for the figure at its end
CHARTED_BATCHES = (1, 256)  # where they were measured, else the smallest and the largest
# One hue for each number of threads; the peers' bars are pale.
PEER_ALPHA = 0.45


def network_chart(network: Network, findings: Findings, environment: Environment) -> bytes:
    """A row of panels for each of two batch sizes, a panel for each direction, a bar for each engine."""
    of_network = [one for one in findings.measurements if one.task.network == network]
    directions = list(dict.fromkeys(one.task.direction for one in of_network))
    measured = sorted({one.task.batch for one in of_network})
    batches = [batch for batch in CHARTED_BATCHES if batch in measured]
    if len(batches) < 2:
        batches = sorted({measured[0], measured[-1]})
    names = {
        direction: [
            engine.name
            for engine in ENGINES
            if any(one.task.direction == direction and engine.name in one.timings for one in of_network)
        ]
        for direction in directions
    }
    height = PANEL_INCHES + BAR_INCHES * len(findings.threads) * max(map(len, names.values())) * 0.7
    figure = Figure(
        figsize=(WIDTH_INCHES * 1.25, MARGIN_INCHES + height * len(batches)), layout="constrained"
    )
    figure.suptitle(
        f"{network.title[0].upper()}{network.title[1:]}: microseconds per image, less is better",
        x=0.01,
        ha="left",
        color=INK,
        fontsize=11,
        fontweight="bold",
    )
    grid = figure.subplots(len(batches), len(directions), squeeze=False)
    for axes_row, batch in zip(grid, batches, strict=True):
        for axes, direction in zip(axes_row, directions, strict=True):
            bars = [one for one in of_network if (one.task.direction, one.task.batch) == (direction, batch)]
            _draw(axes, bars, names[direction], findings.threads)
            axes.set_title(f"{direction}, B={batch}", loc="left", color=INK, fontsize=10)
    handles = [
        Patch(color=color, label=threads_text(number))
        for color, number in zip(COLORS, findings.threads, strict=False)
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower left",
        title=f"medians, logarithmic axis; {environment}",
        alignment="left",
        ncols=4,
        frameon=False,
        fontsize=9,
        title_fontsize=7.5,
    )
    legend.get_title().set_color(INK)
    return png(figure)


def _draw(
    axes: Axes, measurements: Sequence[PeerMeasurement], names: Sequence[str], threads: Sequence[int]
) -> None:
    ours = {engine.name for engine in ENGINES if engine.ours}
    height = 0.8 / len(threads)
    values = []
    for one in measurements:
        number = threads.index(one.task.threads)
        for position, name in enumerate(names):
            if name not in one.timings:
                continue
            value = one.microseconds_per_image(name)
            values.append(value)
            y = position - 0.4 + (number + 0.5) * height
            alpha = 1 if name in ours else PEER_ALPHA
            axes.barh(y, value, height, color=COLORS[number], alpha=alpha, zorder=2)
            axes.text(value * 1.05, y, significant(value), va="center", fontsize=7.5, color=INK)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * LABEL_SPACE)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    style_axes(axes)
