"""The live line of a training run, and what observers do that show it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lenet_ext.commands.stopping import StoppedInOrder
from lenet_ext.training.dataset import Dataset
from lenet_ext.training.errors import printable


class SteadyConsole(Console):
    """A console whose live displays don't hide the cursor, since nothing could show it after a SIGKILL."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class TimeLeftColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return super().render(task).append(" left")


class TrainingProgress(Progress):
    """One line that is never cut: where the terminal is too narrow, whole parts are left out."""

    def __init__(self, console: Console) -> None:
        bar = BarColumn(bar_width=12)
        engine, loss, speed = (TextColumn(f"{{task.fields[{name}]}}") for name in ("engine", "loss", "speed"))
        time_left = TimeLeftColumn(compact=True)
        self.expendable: list[ProgressColumn] = [bar, speed, time_left, engine, loss]  # the first one first
        epoch, percentage = TextColumn("{task.description}"), TextColumn("{task.percentage:3.0f}%")
        self.parts: list[ProgressColumn] = [epoch, engine, bar, percentage, loss, speed, time_left]
        self.screen = console
        super().__init__(*self.parts, console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        unlimited = self.screen.options.update(width=10_000)
        for left_out in range(len(self.expendable) + 1):
            columns = [column for column in self.parts if column not in self.expendable[:left_out]]
            table = Table.grid(*(column.get_table_column().copy() for column in columns), padding=(0, 1))
            for task in tasks:
                table.add_row(*(column(task) for column in columns))
            if Measurement.get(self.screen, unlimited, table).maximum <= self.screen.width:
                break
        return table


class LiveReport(StoppedInOrder):
    """An observer; a context manager while the live display is on the screen.

    pictures: the names of the files that are to be drawn. From its first line on, signals end the program in
    order.
    """

    def __init__(self, console: Console, progress: TrainingProgress, pictures: Iterable[str]) -> None:
        super().__init__()
        self.console, self.progress, self.pictures = console, progress, list(pictures)
        self.task = TaskID(0)

    def note(self, text: str) -> None:
        print(f"lenet-ext: {printable(text)}", file=sys.stderr)

    def picture_failed(self, name: str, message: str) -> None:
        self.pictures.remove(name)
        self.note(message)

    def show_start(self, name: str, dataset: Dataset, rest: str, total: int, completed: int) -> None:
        """The first lines, and the live one. name: of the data. total, completed: in the units of the bar."""
        self.begin()
        self.cleanup.callback(self.progress.stop)
        self.console.print(
            f"{name}: {len(dataset.train):,} training and {len(dataset.test):,} test images, "
            f"{'x'.join(map(str, dataset.train.images.shape[1:]))}, {len(dataset.class_names)} classes\n"
            f"{rest}",
            highlight=False,
        )
        self.task = self.progress.add_task(
            "starting", total=total, completed=completed, engine="", loss="", speed=""
        )
        self.progress.start()

    def show_written(self, folder: Path, names: Sequence[str]) -> None:
        written = f"written to {printable(str(folder))}: {', '.join([*names, *self.pictures])}"
        self.console.print(written, markup=False, highlight=False, soft_wrap=True)
