"""The pictures of a run, as PNG bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from lenet_ext.training.config import ENGINE_TITLES
from lenet_ext.training.loop import EpochRecord

# The two curves often lie on each other: the wide pale one stays visible under the thin one.
LINE: dict[str, Any] = {"marker": "o", "clip_on": False}
TRAINED_LINE = {**LINE, "color": "#1f5fa8", "linewidth": 1.8, "markersize": 4, "zorder": 3}
TWIN_LINE = {**LINE, "color": "#f2a154", "linewidth": 5, "markersize": 5, "alpha": 0.75, "zorder": 2}
INK, GRID = "#333333", "#dddddd"
DPI = 150
MAX_CLASSES_WITH_TEXT = 25
LONGEST_NAME = 20  # letters of a class that fit beside the matrix


@contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's matplotlibrc says, and no formulas: "$5-$10" is a name."""
    with rc_context():
        rcdefaults()
        rcParams["text.parse_math"] = False
        yield


@own_style()
def curves(records: Mapping[str, Sequence[EpochRecord]]) -> bytes:
    """Training loss and test accuracy over the epochs, for each engine; the first is the trained one."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for number, (engine, history) in enumerate(records.items()):
        epochs = range(1, len(history) + 1)
        style = TWIN_LINE if number else TRAINED_LINE
        for axes, key in ((loss_axes, "train_loss"), (accuracy_axes, "test_accuracy")):
            values = [record[key] for record in history]
            axes.plot(epochs, values, label=ENGINE_TITLES[engine], **style)
    for axes, title in ((loss_axes, "Training loss (cross-entropy)"), (accuracy_axes, "Test accuracy")):
        axes.set_title(title, loc="left", color=INK, fontsize=12)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.8)
        remove_frame(axes)
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    if len(records) > 1:
        accuracy_axes.legend(frameon=False, loc="best")
    return png(figure)


@own_style()
def filters(weight: Tensor) -> bytes:
    """The kernels of a first layer, `weight` (out_channels, in_channels, height, width), as small images.

    Kernels over three channels are shown in colour, each stretched to its own range; others, averaged over
    their channels, from blue (negative) to red (positive) on one common scale.
    """
    columns = min(len(weight), 8)
    rows = math.ceil(len(weight) / columns)
    figure = Figure(figsize=(1.5 * columns + 0.3, 1.75 * rows + 0.45), layout="constrained")
    figure.suptitle("The first convolution's kernels", x=0.02, ha="left", color=INK, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    limit = float(weight.mean(dim=1).abs().max()) or 1.0
    for number, (axes, kernel) in enumerate(zip(grid, weight, strict=False), start=1):
        axes.set_title(str(number), fontsize=9, color=INK)
        if len(kernel) == 3:
            low, high = kernel.min(), kernel.max()
            axes.imshow(((kernel - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0).numpy())
        else:
            axes.imshow(kernel.mean(dim=0).numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    return png(figure)


@own_style()
def confusion(counts: Tensor, class_names: Sequence[str]) -> bytes:
    """The confusion matrix `counts[true, predicted]` (classes, classes) int64, shaded by its rows' shares."""
    classes = len(class_names)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(max(4.5, 0.62 * classes + 1.8), 20)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    accuracy = int(counts.diagonal().sum()) / max(int(counts.sum()), 1)
    axes.set_title(
        f"Test images: {accuracy:.1%} of {int(counts.sum()):,} right", loc="left", color=INK, fontsize=12
    )
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    if classes <= MAX_CLASSES_WITH_TEXT:
        names = [
            name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in class_names
        ]
        rotation = 45 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(classes), names, rotation=rotation, ha="right" if rotation else "center")
        axes.set_yticks(range(classes), names)
        _write_counts(axes, counts, shares)
    axes.tick_params(length=0)
    remove_frame(axes)
    bar = figure.colorbar(picture, ax=axes, fraction=0.045, format=PercentFormatter(xmax=1))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", color=INK)
    return png(figure)


def _write_counts(axes: Axes, counts: Tensor, shares: Tensor) -> None:
    for row, column in torch.nonzero(counts).tolist():
        colour = "white" if shares[row, column] > 0.5 else INK
        axes.text(
            column, row, f"{int(counts[row, column])}", ha="center", va="center", color=colour, fontsize=9
        )


def remove_frame(axes: Axes) -> None:
    """No lines around the axes, and ticks in the colour of the text."""
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as a file, without a screen."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()
