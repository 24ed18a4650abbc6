"""What `lenet-ext sweep` shows: the live table and progress, lines elsewhere, and the table at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from lenet_ext.commands.progress import LiveReport, TrainingProgress
from lenet_ext.commands.tables import print_table
from lenet_ext.training.sweep.session import BEST, PICTURES, RECORDS
from lenet_ext.training.sweep.state import Combination, Sweep, values_text

MOST_ROWS = 20  # of the table at the end
LINES_BESIDE = 8  # the live table's own, and the progress line's


class SweepReport(LiveReport):
    """An observer of a sweep."""

    progress: _SweepProgress

    def __init__(self, console: Console) -> None:
        super().__init__(console, _SweepProgress(console), PICTURES)

    def sweep_started(self, sweep: Sweep) -> None:
        self.sweep, config, members = sweep, sweep.config.first, len(sweep.members)
        self.steps = math.ceil(len(sweep.dataset.train) / config.batch_size)
        chunks = f"{len(sweep.ranges()):,} {'chunk' if len(sweep.ranges()) == 1 else 'chunks'}"
        plan = f"{members:,} networks in {chunks}, {config.epochs} epochs each"
        self.show_start(config.data, sweep.dataset, plan, members * config.epochs, self._done())
        self.progress.show(sweep)

    def steps_done(self, chunk: int, epoch: int, steps: int) -> None:
        members = self.sweep.ranges()[chunk]
        self.progress.update(
            self.task,
            description=f"networks {members[0] + 1} to {members[-1] + 1}",
            completed=self._done() + steps / self.steps * len(members),
            engine=f"epoch {epoch}",
        )

    def epoch_done(self, sweep: Sweep, chunk: int) -> None:
        members, state = sweep.ranges()[chunk], sweep.chunks[chunk]
        last = [history[-1] for m, history in enumerate(state.histories) if m not in state.diverged]
        accuracies = [record["test_accuracy"] for record in last]
        speed = len(sweep.dataset.train) * len(last) / sum(r["seconds"] for r in last) if last else 0.0
        self.progress.update(
            self.task, completed=self._done(), speed=f"{speed:,.0f} images/s" if last else ""
        )
        self.progress.show(sweep)
        if not self.console.is_terminal:
            best = f"accuracy {max(accuracies):.2%} best, {median(accuracies):.2%} median" if last else ""
            diverged = f"{len(state.diverged)} diverged" if state.diverged else ""
            parts = [
                f"networks {members[0] + 1} to {members[-1] + 1}  epoch {state.epoch:3d}",
                *filter(None, (best, diverged, f"{speed:,.0f} images/s" if last else "")),
            ]
            self.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def summarize(self, sweep: Sweep, folder: Path) -> None:
        """Print the table of results, the best network and where the files are."""
        ranked = _ranked(sweep)
        print_table(self.console, _table(sweep, ranked[:MOST_ROWS]))
        if len(ranked) > MOST_ROWS:
            self.console.print(f"and {len(ranked) - MOST_ROWS:,} more in {RECORDS}", highlight=False)
        best = sweep.best()
        if best is not None:
            config, record = sweep.members[best], sweep.histories()[best][-1]
            values = values_text((config.lr, config.momentum, config.weight_decay))
            accuracy = f"{record['test_accuracy']:.2%}"
            text = (
                f"best: {values}, seed {config.seed}: {accuracy} of the test images, by which it was chosen"
            )
            self.console.print(text, highlight=False, soft_wrap=True)
        self.show_written(folder, [BEST, RECORDS])

    def _done(self) -> int:
        """Epochs of all members. One that has diverged has nothing left to do."""
        done = 0
        for number, members in enumerate(self.sweep.ranges()):
            chunk = self.sweep.chunks.get(number)
            if chunk is not None:
                epochs = self.sweep.config.first.epochs if chunk.finished else chunk.epoch
                done += epochs * len(members)
        return done


class _SweepProgress(TrainingProgress):
    """The line of progress below a table of the best combinations, where that fits on the screen."""

    table: Table | None = None

    def show(self, sweep: Sweep) -> None:
        rows = max(1, self.screen.height - LINES_BESIDE)
        self.table = _table(sweep, _ranked(sweep)[:rows])
        self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        table = self.table
        unlimited = self.screen.options.update(width=10_000)
        if table is not None and Measurement.get(self.screen, unlimited, table).minimum <= self.screen.width:
            yield table
        yield from super().get_renderables()


def _ranked(sweep: Sweep) -> list[Combination]:
    return sorted(sweep.combinations(), key=lambda one: one.accuracy or -1.0, reverse=True)


def _table(sweep: Sweep, combinations: Sequence[Combination]) -> Table:
    """A row for each combination: the test accuracies of its members' last epochs."""
    table = Table()
    names = ["lr", "momentum", "weight decay", "epoch", "test accuracy", "lowest", "highest", "loss"]
    shows_diverged = any(one.diverged for one in combinations)
    for name in [*names, "diverged"] if shows_diverged else names:
        table.add_column(name, justify="right")
    for one in combinations:
        accuracies = [record["test_accuracy"] for record in one.results]
        epochs = [record["epoch"] for record in one.results]
        cells = ["", "", "", ""]
        if accuracies:
            shown = (fmean(accuracies), min(accuracies), max(accuracies))
            loss = fmean(record["train_loss"] for record in one.results)
            cells = [*(f"{accuracy:.2%}" for accuracy in shown), f"{loss:.4f}"]
        if shows_diverged:
            cells.append(f"{one.diverged} of {len(one.members)}" if one.diverged else "")
        low, high = min(epochs, default=0), max(epochs, default=0)
        epoch = f"{high}" if low == high else f"{low} to {high}"
        table.add_row(*(f"{value:g}" for value in one.values), epoch, *cells)
    return table
