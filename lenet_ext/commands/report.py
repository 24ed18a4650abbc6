"""What `lenet-ext train` shows: the live progress, a line an epoch, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from lenet_ext.commands.progress import LiveReport, TrainingProgress
from lenet_ext.commands.stopping import StoppedInOrder
from lenet_ext.commands.tables import print_table
from lenet_ext.training.config import ENGINE_TITLES
from lenet_ext.training.loop import EpochRecord, Run
from lenet_ext.training.run_pictures import PICTURES


class TrainingReport(LiveReport):
    """An observer of a training run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TrainingProgress(console), PICTURES)
        self.steps_of_learner: dict[str, int] = {}

    def run_started(self, run: Run) -> None:
        config, steps = run.config, run.steps_per_epoch
        engines = " and ".join(ENGINE_TITLES[learner.name] for learner in run.learners)
        together = f" in {run.processes.count} processes" if run.processes.count > 1 else ""
        done = f"{engines} on {config.device}{together}, {run.epoch} of {config.epochs} epochs done"
        self.steps_of_learner = {learner.name: run.epoch * steps for learner in run.learners}
        total = config.epochs * steps * len(run.learners)
        self.show_start(config.data, run.dataset, done, total, sum(self.steps_of_learner.values()))

    def batch_done(self, learner: str, epoch: int, step: int, loss: float, images_per_second: float) -> None:
        self.steps_of_learner[learner] = step
        self.progress.update(
            self.task,
            description=f"epoch {epoch}",
            completed=sum(self.steps_of_learner.values()),
            engine=ENGINE_TITLES[learner],
            loss=f"loss {loss:.4f}",
            speed=f"{images_per_second:,.0f} images/s",
        )

    def epoch_done(self, record: EpochRecord) -> None:
        self.progress.console.print(
            f"epoch {record['epoch']:3d}  loss {record['train_loss']:.4f}  "
            f"accuracy {record['test_accuracy']:.2%}  {record['images_per_second']:,.0f} images/s",
            highlight=False,
        )

    def summarize(self, run: Run, folder: Path) -> None:
        """Print the table of results and where the files are."""
        print_table(self.console, results_table(run))
        self.show_written(folder, ["checkpoint.safetensors", "metrics.jsonl"])


class SilentReport(StoppedInOrder):
    """That of a process that trains along with the first, which reports."""

    def note(self, text: str) -> None: ...

    def run_started(self, run: Run) -> None:
        self.begin()

    def batch_done(
        self, learner: str, epoch: int, step: int, loss: float, images_per_second: float
    ) -> None: ...

    def epoch_done(self, record: EpochRecord) -> None: ...

    def picture_failed(self, name: str, message: str) -> None: ...

    def summarize(self, run: Run, folder: Path) -> None: ...


def results_table(run: Run) -> Table:
    """The trained network's results; with a twin also native torch's, and how the two relate."""
    results = [_Results.of(history) for history in run.records().values()]
    rows = {
        "test accuracy": [f"{one.accuracy:.2%}" for one in results],
        "training loss": [f"{one.losses[-1]:.4f}" for one in results],
        "images/s, median epoch": [f"{one.speed:,.0f}" for one in results],
        "seconds of training": [f"{one.seconds:.1f}" for one in results],
    }
    columns = [ENGINE_TITLES[learner.name] for learner in run.learners]
    if len(results) == 2:
        ours, native = results
        loss_gap = max(abs(a - b) for a, b in zip(ours.losses, native.losses, strict=True))
        columns.append("compared")
        rows["test accuracy"].append(f"{(ours.accuracy - native.accuracy) * 100:+.2f} points")
        rows["training loss"].append(f"at most {loss_gap:.1g} apart")
        rows["images/s, median epoch"].append(f"{ours.speed / native.speed:.2f} times")
        rows["seconds of training"].append(f"{ours.seconds / native.seconds:.2f} times")
    title = f"{run.config.data} on {run.config.device}, after epoch {run.epoch}"
    table = Table("", title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table


@dataclass(frozen=True)
class _Results:
    """One learner's results over all epochs."""

    accuracy: float
    losses: list[float]
    speed: float  # images per second in the median epoch
    seconds: float

    @classmethod
    def of(cls, history: Sequence[EpochRecord]) -> _Results:
        return cls(
            accuracy=history[-1]["test_accuracy"],
            losses=[record["train_loss"] for record in history],
            speed=median(record["images_per_second"] for record in history),
            seconds=sum(record["seconds"] for record in history),
        )
