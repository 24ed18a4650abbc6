"""The live line of a training run."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


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
