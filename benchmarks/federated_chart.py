"""Test accuracy of federated learning over rounds and over seconds, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.charts import DPI, STYLE, WIDTH_INCHES

HEIGHT_INCHES = 3.6
# The first is drawn over the others: where curves agree, a thin line lies on a wide one.
STYLES: Sequence[dict[str, Any]] = (
    {"color": "#1f5fa8", "linewidth": 1.6, "marker": "o", "markersize": 3, "zorder": 4},
    {"color": "#e7969c", "linewidth": 5, "zorder": 3},
    {"color": "#8a8a8a", "linewidth": 2.5, "linestyle": ":", "zorder": 5},
)


class Accuracies(Protocol):
    seconds: list[float]
    accuracies: list[float]


def draw(curves: Mapping[str, Accuracies], caption: str) -> bytes:
    """Of each engine a curve in each of two panels."""
    with rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure((WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        title = "Federated learning: accuracy over rounds, and over time"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        by_round, by_time = figure.subplots(1, 2, sharey=True)
        for (name, curve), style in zip(curves.items(), STYLES, strict=True):
            rounds = range(1, len(curve.accuracies) + 1)
            by_round.plot(rounds, curve.accuracies, label=name, **style)
            seconds = list(accumulate(curve.seconds[: len(curve.accuracies)]))
            by_time.plot(seconds, curve.accuracies, **style)
        by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
        by_round.set(xlabel="round", ylabel="test accuracy")
        by_time.set(xlabel="seconds of training since the start, logarithmic", xscale="log")
        by_time.xaxis.set_major_formatter("{x:g}")
        handles, labels = by_round.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", title=caption, alignment="left", ncols=3)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()
