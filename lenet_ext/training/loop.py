"""The training loop: what happens to a network in one step, in one epoch, and in a whole run.

Everything that varies is a pure function of the seed and of the step's number (the order of the images, how
they are changed, what dropout drops, the learning rate), so a run that is cut off between two epochs and goes
on from saved weights and the saved state of the optimizer is the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from lenet_ext.training.augment import UNMIRRORED, augmented
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization, derived_seed, shuffled_batches
from lenet_ext.training.data_parallel import data_parallel_step
from lenet_ext.training.dataset import Dataset, Split
from lenet_ext.training.errors import InputError
from lenet_ext.training.learner import EVALUATION_BATCH, Learner
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.pictures import PictureObserver
from lenet_ext.training.processes import Processes

WARM_UP_SHARE = 0.05  # of all steps; the first gradients of a fresh network are too steep for the full rate
REPORT_EVERY = 20  # steps; reading the loss makes the CPU wait for a GPU

EpochRecord = dict[str, Any]  # one line of metrics.jsonl


class Observer(PictureObserver, Protocol):
    """Who wants to follow a run, e.g. a progress display; one in each process of the run.

    `going_on` is called between any two batches.
    """

    def run_started(self, run: Run) -> None: ...

    def batch_done(
        self, learner: str, epoch: int, step: int, loss: float, images_per_second: float
    ) -> None: ...

    def epoch_done(self, record: EpochRecord) -> None: ...


@dataclass
class Run:
    """A run between two epochs: the learners, and one record for each epoch that is done."""

    config: TrainingConfig
    dataset: Dataset
    normalize: Normalization
    learners: Sequence[Learner]  # the one that is trained, and with --compare native torch's twin
    history: list[EpochRecord]
    own: OwnNetwork | None = None
    processes: Processes = field(default_factory=Processes)

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.history)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.dataset.train) / self.config.batch_size)

    def records(self) -> dict[str, list[EpochRecord]]:
        """The history of each learner by its name, the trained one first."""
        trained, *twins = (learner.name for learner in self.learners)
        return {trained: self.history, **{twin: [record[twin] for record in self.history] for twin in twins}}


def learning_rate(step: int, total_steps: int, peak: float, schedule: str = "cosine") -> float:
    """That of a step, the first being 0.

    "cosine": a linear warm-up to `peak`, then half a cosine down to zero (Loshchilov and Hutter, "SGDR",
    2017); "linear": the same warm-up, then a straight line down to zero; "step": `peak`, a tenth of it after
    half of the steps, a hundredth after three quarters; "constant": `peak`.
    """
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * 0.1 ** ((2 * step >= total_steps) + (4 * step >= 3 * total_steps))
    warm_up_steps = WARM_UP_SHARE * total_steps
    if step < warm_up_steps:
        return peak * (step + 1) / (warm_up_steps + 1)
    progress = (step - warm_up_steps) / (total_steps - warm_up_steps)
    return peak * (1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))


def fit(run: Run, save: Callable[[Run], None], observer: Observer) -> None:
    """Train until `run.config.epochs` epochs are done; the first process calls `save` after each.

    The learners take turns epoch by epoch, each beginning every second one, so that a machine that slows down
    slows both. Raises `InputError` when a loss is no longer finite; what was saved before stays.
    """
    with run.processes.agreed():
        train, test = (
            _to_device(split, run.config.device) for split in (run.dataset.train, run.dataset.test)
        )
    while run.epoch < run.config.epochs:
        turns = run.learners if run.epoch % 2 == 0 else list(reversed(run.learners))
        results = {learner.name: _one_epoch(run, learner, train, test, observer) for learner in turns}
        trained, *twins = run.learners
        record = {"epoch": run.epoch + 1, **results[trained.name]}
        record.update({twin.name: results[twin.name] for twin in twins})
        run.history.append(record)
        run.processes.from_first(lambda: save(run))
        observer.epoch_done(record)


def _one_epoch(run: Run, learner: Learner, train: Split, test: Split, observer: Observer) -> EpochRecord:
    loss, seconds = train_one_epoch(run, learner, train, observer)
    _check_weights(run, learner)
    try:
        correct = run.processes.from_first(lambda: _count_correct(learner, test, observer))
    except FloatingPointError as error:
        raise _diverged(str(error), run, learner) from error
    return {
        "train_loss": loss,
        "test_accuracy": correct / len(test),
        "images_per_second": len(train) / seconds,
        "seconds": seconds,
    }


def _count_correct(learner: Learner, test: Split, observer: Observer) -> int:
    correct = 0
    learner.train(False)
    for images, labels in zip(
        test.images.split(EVALUATION_BATCH), test.labels.split(EVALUATION_BATCH), strict=True
    ):
        observer.going_on()
        correct += int((learner.predict(images) == labels).sum())
    return correct


def train_one_epoch(run: Run, learner: Learner, train: Split, observer: Observer) -> tuple[float, float]:
    """Show `learner` every training image once; returns the mean loss and the seconds it took."""
    config, processes = run.config, run.processes
    epoch = run.epoch + 1
    total_steps = run.steps_per_epoch * config.epochs
    step = run.steps_per_epoch * run.epoch
    total_loss = torch.zeros((), dtype=torch.float64, device=config.device)
    seen = 0
    changes = torch.Generator().manual_seed(derived_seed(config.seed, epoch, "augment"))
    learner.train(True)
    start = time.perf_counter()
    with own_randomness(config.seed, epoch, config.device, processes.rank):
        for indices in shuffled_batches(len(train), config.batch_size, config.seed, epoch):
            rate = learning_rate(step, total_steps, config.lr, config.schedule)
            share = partial(_share_of_batch, run, train, indices, changes, observer)
            if processes.count == 1:
                loss = learner.step(*share(), rate)
            else:
                loss = data_parallel_step(learner, processes, share, len(indices), rate)
            total_loss += loss * len(indices)
            seen += len(indices)
            step += 1
            if step % REPORT_EVERY == 0 or seen == len(train):
                mean_loss = total_loss.item() / seen
                if not math.isfinite(mean_loss):  # after such a loss every weight is NaN
                    raise _diverged(f"the loss became {mean_loss} by step {step}", run, learner)
                speed = seen / (time.perf_counter() - start)
                observer.batch_done(learner.name, epoch, step, mean_loss, speed)
    return mean_loss, time.perf_counter() - start


def _share_of_batch(
    run: Run, train: Split, indices: Tensor, changes: torch.Generator, observer: Observer
) -> tuple[Tensor, Tensor]:
    """Images and labels of this process, of the batch with these indices."""
    observer.going_on()
    share = run.processes.share(len(indices))
    own = indices[share].to(run.config.device)
    images, labels = train.images.index_select(0, own), train.labels.index_select(0, own)
    if run.config.augment:
        mirror = run.config.data not in UNMIRRORED
        images = augmented(images, changes, mirror, share=share, batch_size=len(indices))
    return images, labels


@contextmanager
def own_randomness(seed: int, epoch: int, device: str, rank: int = 0) -> Iterator[None]:
    """torch's default generators begin from what dropout draws in an epoch, and are afterwards as they were.

    seed: that of the run. rank: of the process; the first draws what a process by itself does.
    """
    # Two processes that drew the same numbers would drop the same of different images.
    others = [rank] if rank > 0 else []
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(derived_seed(seed, epoch, "dropout", *others))
        yield


def _check_weights(run: Run, learner: Learner) -> None:
    """The epoch's last update comes after its last loss, so a loss can't vouch for it."""
    for name, parameter in learner.model.named_parameters():
        if not parameter.isfinite().all():
            raise _diverged(f"{name} is no longer finite", run, learner)


def _diverged(what: str, run: Run, learner: Learner) -> Exception:
    """In the epoch that is under way. Losses and weights are the same in all processes."""
    return run.processes.alike(
        InputError(
            f"{what}, in epoch {run.epoch + 1} (engine {learner.name}); the checkpoint of epoch {run.epoch} "
            "is kept; use a smaller --lr, with another --out"
        )
    )


def _to_device(split: Split, device: str) -> Split:
    return Split(split.images.to(device), split.labels.to(device))
