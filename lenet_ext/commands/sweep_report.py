"""What `lenet-ext sweep` shows: the live table and progress, lines elsewhere, and the table at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median
from types import TracebackType

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import TaskID
from rich.table import Table

from lenet_ext.commands.progress import TrainingProgress
from lenet_ext.commands.stopping import signals_noted
from lenet_ext.commands.tables import print_table
from lenet_ext.training.errors import printable
from lenet_ext.training.sweep.session import BEST, PICTURES, RECORDS
from lenet_ext.training.sweep.state import Combination, Sweep, values_text

MOST_ROWS = 20  # of the table at the end
LINES_BESIDE = 8  # the live table's own, and the progress line's


class SweepReport:
    """An observer of a sweep; a context manager while the live display is on the screen.

    From its first line on, signals end the program in order (`signals_noted`).
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = _SweepProgress(console)
        self.task = TaskID(0)
        self.pictures = list(PICTURES)
        self.cleanup = ExitStack()

    def __enter__(self) -> SweepReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup.close()

    def note(self, text: str) -> None:
        print(f"lenet-ext: {printable(text)}", file=sys.stderr)

    def sweep_started(self, sweep: Sweep) -> None:
        self.raise_noted = self.cleanup.enter_context(signals_noted())
        self.cleanup.callback(self.progress.stop)
        dataset, config = sweep.dataset, sweep.config.first
        self.sweep = sweep
        self.steps = math.ceil(len(dataset.train) / config.batch_size)
        self.console.print(
            f"{config.data}: {len(dataset.train):,} training and {len(dataset.test):,} test images, "
            f"{'x'.join(map(str, dataset.train.images.shape[1:]))}, {len(dataset.class_names)} classes\n"
            f"{len(sweep.members):,} networks in {len(sweep.ranges()):,} "
            f"{'chunk' if len(sweep.ranges()) == 1 else 'chunks'}, {config.epochs} epochs each",
            highlight=False,
        )
        self.task = self.progress.add_task(
            "starting",
            total=len(sweep.members) * config.epochs,
            completed=self._done(),
            engine="",
            loss="",
            speed="",
        )
        self.progress.show(sweep)
        self.progress.start()

    def going_on(self) -> None:
        self.raise_noted()

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

    def picture_failed(self, name: str, message: str) -> None:
        self.pictures.remove(name)
        self.note(message)

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
        names = ", ".join([BEST, RECORDS, *self.pictures])
        written = f"written to {printable(str(folder))}: {names}"
        self.console.print(written, markup=False, highlight=False, soft_wrap=True)

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
