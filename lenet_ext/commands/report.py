"""What `lenet-ext train` shows: the live progress, a line an epoch, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from lenet_ext.training.loop import EpochRecord, Run
from lenet_ext.training.session import PICTURES

TITLE = {"layers": "lenet_ext", "torch": "native torch"}


class TrainingReport:
    """An observer of a training run; a context manager while the live display is on the screen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self.task = TaskID(0)
        self.steps_of_learner: dict[str, int] = {}
        self.accuracy = ""

    def __enter__(self) -> TrainingReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def run_started(self, run: Run) -> None:
        dataset, config = run.dataset, run.config
        engines = " and ".join(TITLE[learner.name] for learner in run.learners)
        self.console.print(
            f"{config.data}: {len(dataset.train):,} training and {len(dataset.test):,} test images, "
            f"{'x'.join(map(str, dataset.train.images.shape[1:]))}, {len(dataset.class_names)} classes\n"
            f"{engines} on {config.device}, {run.epoch} of {config.epochs} epochs done",
            highlight=False,
        )
        steps = run.steps_per_epoch
        self.steps_of_learner = {learner.name: run.epoch * steps for learner in run.learners}
        self.task = self.progress.add_task(
            "starting",
            total=config.epochs * steps * len(run.learners),
            completed=sum(self.steps_of_learner.values()),
            figures="",
        )
        self.progress.start()

    def batch_done(self, learner: str, epoch: int, step: int, loss: float, images_per_second: float) -> None:
        self.steps_of_learner[learner] = step
        self.progress.update(
            self.task,
            description=f"epoch {epoch} {TITLE[learner]}",
            completed=sum(self.steps_of_learner.values()),
            figures=f"loss {loss:.4f}{self.accuracy}  {images_per_second:,.0f} images/s ",
        )

    def epoch_done(self, record: EpochRecord) -> None:
        self.accuracy = f"  accuracy {record['test_accuracy']:.2%}"
        self.progress.console.print(
            f"epoch {record['epoch']:3d}  loss {record['train_loss']:.4f}{self.accuracy}  "
            f"{record['images_per_second']:,.0f} images/s",
            highlight=False,
        )

    def summarize(self, run: Run, folder: Path) -> None:
        """Print the table of results and where the files are."""
        self.console.print(results_table(run))
        names = ["checkpoint.safetensors", "metrics.jsonl", *PICTURES]
        self.console.print(
            f"written to {folder}: " + ", ".join(names), markup=False, highlight=False, soft_wrap=True
        )


def results_table(run: Run) -> Table:
    """The trained network's results; with a twin also native torch's, and how the two relate."""
    table = Table(
        title=f"{run.config.data}, {run.config.epochs} epochs, {run.config.device}", title_justify="left"
    )
    table.add_column("")
    records = {learner.name: _records(run, learner.name) for learner in run.learners}
    for name in records:
        table.add_column(TITLE[name], justify="right")
    speeds = [median(record["images_per_second"] for record in history) for history in records.values()]
    seconds = [sum(record["seconds"] for record in history) for history in records.values()]
    rows = [
        ("test accuracy", [f"{history[-1]['test_accuracy']:.2%}" for history in records.values()], ""),
        ("training loss", [f"{history[-1]['train_loss']:.4f}" for history in records.values()], ""),
        ("images/s in training (median epoch)", [f"{speed:,.0f}" for speed in speeds], ""),
        ("seconds of training", [f"{second:.1f}" for second in seconds], ""),
    ]
    if len(records) == 2:
        ours, theirs = records.values()
        loss_gap = max(abs(a["train_loss"] - b["train_loss"]) for a, b in zip(ours, theirs, strict=True))
        accuracy_gap = ours[-1]["test_accuracy"] - theirs[-1]["test_accuracy"]
        table.add_column("compared", justify="right")
        remarks = [
            f"{accuracy_gap * 100:+.2f} points",
            f"at most {loss_gap:.1g} apart in an epoch",
            f"{speeds[0] / speeds[1]:.2f} times",
            f"{seconds[0] / seconds[1]:.2f} times",
        ]
        rows = [(label, values, remark) for (label, values, _), remark in zip(rows, remarks, strict=True)]
    for label, values, remark in rows:
        table.add_row(label, *values, *([remark] if remark else []))
    return table


def _records(run: Run, engine: str) -> list[EpochRecord]:
    if engine == run.learners[0].name:
        return run.history
    return [record[engine] for record in run.history]
