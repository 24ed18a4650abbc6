"""Draws the pictures of docs/tutorial.md: docs/images/tutorial_*.png.

Run from anywhere: python docs/draw_tutorial.py. It runs the tutorial's blocks, so the network in the pictures
is the one that a reader has trained there.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

TUTORIAL = Path(__file__).parent / "tutorial.md"
IMAGES = Path(__file__).parent / "images"
INK, WRONG, BAR = "#333333", "#d55e00", "#0072b2"  # the colours of Okabe and Ito
DPI = 110


def run_tutorial() -> dict[str, Any]:
    """The names that the tutorial's blocks leave."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.S | re.M):
            exec(block, names)
    return names


def draw_filters(before: Tensor, after: Tensor) -> Figure:
    """Kernels (6, 1, 5, 5), those of before training above those of after it."""
    figure = Figure(figsize=(8.4, 2.8), layout="constrained")
    grid = figure.subplots(2, len(after))
    limit = float(torch.cat((before, after)).abs().max())
    for row, (when, kernels) in enumerate((("before training", before), ("after training", after))):
        for axes, kernel in zip(grid[row], kernels, strict=True):
            picture = axes.imshow(kernel[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            without_ticks(axes)
        grid[row, 0].set_ylabel(when, color=INK, fontsize=10)
    for number, axes in enumerate(grid[0], start=1):
        axes.set_title(f"kernel {number}", color=INK, fontsize=10)
    figure.colorbar(picture, ax=grid, label="weight", aspect=15)
    return figure


def draw_features(stages: dict[str, Tensor], probabilities: Tensor) -> Figure:
    """Stages by their titles, each (1, channels, height, width), and what comes out, (10,)."""
    figure = Figure(figsize=(12.5, 3.4), layout="constrained")
    *panels, bars = figure.subplots(1, len(stages) + 1, width_ratios=[1.2, 1, 1, 1.5, 1.5, 1.2])
    for axes, (title, maps) in zip(panels, stages.items(), strict=True):
        columns = {1: 1, 6: 2, 16: 4}[maps.shape[1]]
        axes.imshow(mosaic(maps[0], columns).numpy(), cmap="gray_r" if columns == 1 else "viridis")
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_axis_off()
    bars.barh(range(10), probabilities.numpy(), color=BAR)
    bars.set(ylim=(9.6, -0.6), xlim=(0, 1), yticks=range(10), xticks=(0, 1))
    bars.set_title("linear layers, softmax:\nprobability of each digit", color=INK, fontsize=10)
    bars.spines[["top", "right"]].set_visible(False)
    return figure


def draw_digits(images: Tensor, labels: Tensor, predicted: Tensor) -> Figure:
    """Twenty digits, those that were taken for another first."""
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    order = torch.argsort((predicted == labels).int(), stable=True).tolist()
    for axes, number in zip(figure.subplots(2, 10).ravel(), order, strict=False):
        label, answer = int(labels[number]), int(predicted[number])
        axes.imshow(images[number, 0].numpy(), cmap="gray_r")
        title = str(label) if label == answer else f"{label} read as {answer}"
        axes.set_title(title, color=INK if label == answer else WRONG, fontsize=9)
        without_ticks(axes)
    return figure


def mosaic(maps: Tensor, columns: int) -> Tensor:
    """Maps (channels, height, width) side by side, `columns` of them in a row, with gaps of NaN between them.

    Each is scaled to 0 ... 1 by itself, since channels differ in size.
    """
    channels, height, width = maps.shape
    gap = max(1, height // 10)
    rows = channels // columns
    canvas = maps.new_full((rows * (height + gap) - gap, columns * (width + gap) - gap), torch.nan)
    for channel, values in enumerate(maps):
        low, high = values.min(), values.max()
        y, x = channel // columns * (height + gap), channel % columns * (width + gap)
        canvas[y : y + height, x : x + width] = (values - low) / (high - low).clamp(min=1e-12)
    return canvas


def without_ticks(axes: Axes) -> None:
    axes.set(xticks=(), yticks=())


def draw(names: dict[str, Any], folder: Path) -> None:
    """names: what `run_tutorial` returns."""
    stages = {
        "image\n32 x 32": names["image"],
        "conv1, ReLU\n6 maps of 28 x 28": names["maps1"],
        "max-pool\n6 of 14 x 14": names["pooled1"],
        "conv2, ReLU\n16 maps of 10 x 10": names["maps2"],
        "max-pool\n16 of 5 x 5": names["pooled2"],
    }
    test = names["digits"].test
    figures = {
        "filters": draw_filters(names["first_filters"], names["filters"]),
        "features": draw_features(stages, names["probabilities"]),
        "digits": draw_digits(test.images, test.labels, names["predicted"]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"tutorial_{name}.png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    draw(run_tutorial(), IMAGES)
