"""The pictures of a sweep, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_ext.training.plots import GRID, INK, own_style, png, remove_frame
from lenet_ext.training.sweep.config import AXES
from lenet_ext.training.sweep.state import Combination, Sweep, values_text

MOST_CELLS_WITH_TEXT = 30  # in a row or a column
MOST_PANELS = 12
MOST_CURVES_IN_COLOUR = 8
MOST_LOSS = 1.5  # in the curves; 1 is the loss of guessing
DIVERGED = OTHERS = "#bbbbbb"


@own_style()
def heatmap(sweep: Sweep) -> bytes:
    """Test accuracy after the last epoch, averaged over the seeds: columns are learning rates.

    Rows are momenta, or weight decays where there is one momentum; with several of both, a panel for each
    weight decay. A cell in which members have diverged says how many.
    """
    config = sweep.config
    by_values = {combination.values: combination for combination in sweep.combinations()}
    row_name = "momentum" if len(config.momentum) > 1 or len(config.weight_decay) == 1 else "weight_decay"
    rows = sorted(getattr(config, row_name))
    columns = sorted(config.lr)
    panels = sorted(config.weight_decay) if row_name == "momentum" else [None]
    shown = panels[:MOST_PANELS]
    accuracies = [one.accuracy for one in by_values.values() if one.accuracy is not None]
    colours = Normalize(min(accuracies, default=0.0), max(accuracies, default=1.0))
    width, height = max(4.2, 0.95 * len(columns) + 1.6), max(2.0, 0.6 * len(rows) + 1.2)
    figure = Figure(figsize=(min(width, 30), min(height * len(shown), 60)), layout="constrained")
    seeds = f"mean of {config.seeds} seeds" if config.seeds > 1 else "1 seed"
    hidden = f"; {len(shown)} of {len(panels)} weight decays" if len(shown) < len(panels) else ""
    title = f"Test accuracy after {config.first.epochs} epochs, {seeds}{hidden}"
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=12)
    for axes, panel in zip(figure.subplots(len(shown), 1, squeeze=False).ravel(), shown, strict=True):
        cells = [
            [
                by_values[(lr, row, panel) if panel is not None else (lr, config.momentum[0], row)]
                for lr in columns
            ]
            for row in rows
        ]
        table = np.array(
            [[np.nan if cell.accuracy is None else cell.accuracy for cell in line] for line in cells]
        )
        axes.set_facecolor(DIVERGED)
        axes.imshow(table, cmap="viridis", norm=colours, aspect="auto")
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set_ylabel(row_name.replace("_", " "), color=INK)
        if len(panels) > 1:
            axes.set_title(f"weight decay {panel:g}", loc="left", color=INK, fontsize=10)
        if max(len(rows), len(columns)) <= MOST_CELLS_WITH_TEXT:
            _write_cells(axes, cells, colours)
        axes.tick_params(length=0)
        remove_frame(axes)
    axes.set_xlabel("learning rate", color=INK)
    if accuracies:
        percent, scale = PercentFormatter(xmax=1, decimals=None), ScalarMappable(colours, "viridis")
        bar = figure.colorbar(scale, ax=figure.axes, fraction=0.045, format=percent)
        bar.outline.set_visible(False)
    return png(figure)


def _write_cells(axes: Axes, cells: Sequence[Sequence[Combination]], colours: Normalize) -> None:
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            text = "" if cell.accuracy is None else f"{cell.accuracy:.1%}"
            if cell.diverged:
                count = "all" if cell.accuracy is None else f"{cell.diverged} of {len(cell.members)}"
                text = f"{text}\n{count}\ndiverged".strip()
            light = cell.accuracy is None or colours(cell.accuracy) > 0.6
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color=INK if light else "white",
                fontsize=7 if cell.diverged else 9,
            )


@own_style()
def curves(sweep: Sweep) -> bytes:
    """Training loss and test accuracy over the epochs, a line for each combination, the mean of its seeds.

    The best are in colour and named, the others gray. A line ends where a member of it diverges. Losses far
    above that of guessing are left out, beside which no other could be told from zero.
    """
    histories = sweep.histories()
    ranked = sorted(sweep.combinations(), key=lambda one: one.accuracy or -1.0, reverse=True)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    palette = colormaps["turbo"]
    names = [axis for axis in AXES if len(getattr(sweep.config, axis)) > 1]
    for place, combination in reversed(list(enumerate(ranked))):
        epochs = min(len(histories[member]) for member in combination.members)
        named = place < MOST_CURVES_IN_COLOUR
        colour = palette(0.08 + 0.84 * place / max(min(len(ranked), MOST_CURVES_IN_COLOUR) - 1, 1))
        for axes, key in ((loss_axes, "train_loss"), (accuracy_axes, "test_accuracy")):
            values = [
                fmean(histories[member][epoch][key] for member in combination.members)
                for epoch in range(epochs)
            ]
            axes.plot(
                range(1, epochs + 1),
                values,
                color=colour if named else OTHERS,
                linewidth=1.6 if named else 1.0,
                marker="o" if named else None,
                markersize=3,
                zorder=3 if named else 2,
                label=(values_text(combination.values, names) or "all seeds") if named else None,
            )
    most = MOST_LOSS * math.log(max(len(sweep.dataset.class_names), 2))
    cut = loss_axes.dataLim.ymax > most
    loss_title = "Training loss (cross-entropy)" + (f", up to {most:.1f}" if cut else "")
    for axes, title in ((loss_axes, loss_title), (accuracy_axes, "Test accuracy")):
        axes.set_title(title, loc="left", color=INK, fontsize=12)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.8)
        remove_frame(axes)
    loss_axes.set_ylim(bottom=0, top=most if cut else None)
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    handles, labels = accuracy_axes.get_legend_handles_labels()
    seeds = f", mean of {sweep.config.seeds} seeds" if sweep.config.seeds > 1 else ""
    title = f"The best first{seeds}" + ("; others in gray" if len(ranked) > len(handles) else "")
    figure.legend(
        handles[::-1], labels[::-1], title=title, loc="outside lower left", ncols=2, frameon=False, fontsize=8
    )
    return png(figure)
