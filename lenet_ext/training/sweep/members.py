"""The members of a sweep that are trained at once: an ensemble, and its epochs.

Each member's bits are those of `lenet-ext train` with its settings: it starts from the same weights, sees the
same images in the same order and with the same changes, and its dropout draws the same seeds. What
`loop.train_one_epoch` does for one network is done here for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lenet_ext.engine.ensemble_step import EnsembleStep
from lenet_ext.engine.operators import draw_seeds
from lenet_ext.training.augment import UNMIRRORED, augmented
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization, derived_seed, shuffled_batches
from lenet_ext.training.dataset import Dataset, Split
from lenet_ext.training.errors import InputError, error_text, out_of_memory_text
from lenet_ext.training.learner import EVALUATION_BATCH, make_optimizer
from lenet_ext.training.loop import REPORT_EVERY, EpochRecord, learning_rate, own_randomness
from lenet_ext.training.network import build_network, fuse_networks, network_of
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.sweep.config import AXES

IMAGES_AT_ONCE = 2**14  # of all members, between two looks at whether the sweep is to go on

Progress = Callable[[int], None]  # called with the steps of the epoch that are done; may raise


class Members:
    """Networks with the settings `configs`, which differ in `AXES` and in the seed alone.

    diverged: why, by the member's number, for those whose numbers are no longer finite; they rest.
    """

    def __init__(
        self, configs: Sequence[TrainingConfig], dataset: Dataset, own: OwnNetwork | None = None
    ) -> None:
        self.configs, self.dataset, self.diverged = list(configs), dataset, dict[int, str]()
        network, first = network_of(dataset), configs[0]
        models: dict[int, nn.Module] = {}
        for config in configs:
            if config.seed not in models:
                models[config.seed] = build_network(network, first.engine, own, config.seed)
        normalize = Normalization.of(dataset.train.images)
        try:
            self.fused = fuse_networks([models[config.seed] for config in configs], network, normalize)
        except (RuntimeError, TypeError, ValueError) as error:
            if own is None or out_of_memory_text(error) is not None:
                raise
            raise InputError(f"--model {own.title}: cannot be swept: {error_text(error)}") from error
        self.optimizer = make_optimizer(self.fused, first)
        self.set_options()
        loss = nn.CrossEntropyLoss(label_smoothing=first.label_smoothing)
        self.train_step = EnsembleStep(self.fused, self.optimizer, loss)

    def set_options(self) -> None:
        """Each member's own."""
        for group in self.optimizer.param_groups:
            for name in AXES:
                if name in group:
                    values = [getattr(config, name) for config in self.configs]
                    group[name] = torch.tensor(values, dtype=torch.float64)

    def one_epoch(self, epoch: int, progress: Progress) -> list[EpochRecord | None]:
        """Train and test; a record for each member, None for one that has diverged. epoch: the first is 1."""
        train, test = self.dataset.train, self.dataset.test
        trained = len(self.configs) - len(self.diverged)
        start = time.perf_counter()
        losses = self._train(epoch, train, progress)
        seconds = (time.perf_counter() - start) / max(trained, 1)
        self._check_weights()
        correct = self._count_correct(test, progress)
        return [
            None
            if member in self.diverged
            else {
                "epoch": epoch,
                "train_loss": losses[member],
                "test_accuracy": correct[member] / len(test),
                "images_per_second": len(train) / seconds,
                "seconds": seconds,
            }
            for member in range(len(self.configs))
        ]

    def _train(self, epoch: int, train: Split, progress: Progress) -> list[float]:
        """Every training image once; the mean losses."""
        first = self.configs[0]
        seeds = list(dict.fromkeys(config.seed for config in self.configs))
        batches = {seed: shuffled_batches(len(train), first.batch_size, seed, epoch) for seed in seeds}
        steps = math.ceil(len(train) / first.batch_size)
        begin, total_steps = steps * (epoch - 1), steps * first.epochs
        of_seeds = {seed: _dropout_seeds(seed, epoch, steps) for seed in seeds}
        dropout = torch.stack(self._by_seed(of_seeds))
        changes = {
            seed: torch.Generator().manual_seed(derived_seed(seed, epoch, "augment")) for seed in seeds
        }
        total, means, seen = torch.zeros(len(self.configs), dtype=torch.float64), [math.nan], 0
        self.fused.train()
        for low, high in self._stretches(begin, steps, total_steps):
            progress(low)
            self._set_learning_rates(begin + low, total_steps)
            orders = {seed: torch.cat(batches[seed][low:high]) for seed in seeds}
            sizes = [len(batch) for batch in batches[seeds[0]][low:high]]
            images, labels = train.images, train.labels
            if first.augment:
                images, labels, orders = self._augmented(train, orders, changes)
            of_members = [orders[config.seed] for config in self.configs]
            for member in self.diverged:
                of_members[member] = of_members[member][:0]
            losses = self.train_step.epoch(
                images,
                labels,
                first.batch_size,
                of_members,
                seeds=dropout[:, low:high],
            )
            resting = torch.full((len(sizes),), math.nan)
            table = torch.stack([row if len(row) else resting for row in losses])
            for column, size in zip(table.unbind(1), sizes, strict=True):
                total += column * size
                seen += size
            if high % REPORT_EVERY == 0 or high == steps:
                means = [loss / seen for loss in total.tolist()]
                self._note_diverged(
                    (member, f"the loss became {loss} by step {begin + high}")
                    for member, loss in enumerate(means)
                    if not math.isfinite(loss)
                )
        progress(steps)
        return means

    def _stretches(self, begin: int, steps: int, total_steps: int) -> Iterator[tuple[int, int]]:
        """The steps of an epoch, in parts that can be taken in one call: no learning rate changes in one."""
        first = self.configs[0]
        most = max(1, IMAGES_AT_ONCE // (first.batch_size * len(self.configs)))
        low = 0
        while low < steps:
            high = low + 1
            rates = self._learning_rates(begin + low, total_steps)
            while (
                high < steps
                and high - low < most
                and high % REPORT_EVERY != 0
                and not first.augment  # which gives each step images of its own
                and self._learning_rates(begin + high, total_steps) == rates
            ):
                high += 1
            yield low, high
            low = high

    def _learning_rates(self, step: int, total_steps: int) -> list[float]:
        schedule = self.configs[0].schedule
        rates = {
            peak: learning_rate(step, total_steps, peak, schedule)
            for peak in dict.fromkeys(config.lr for config in self.configs)
        }
        return [rates[config.lr] for config in self.configs]

    def _set_learning_rates(self, step: int, total_steps: int) -> None:
        rates = torch.tensor(self._learning_rates(step, total_steps), dtype=torch.float64)
        for group in self.optimizer.param_groups:
            group["lr"] = rates

    def _augmented(
        self, train: Split, orders: dict[int, Tensor], changes: dict[int, torch.Generator]
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Each member's own images and labels (K, N, ...) of a step, and all of them as the order."""
        mirror = self.configs[0].data not in UNMIRRORED
        images = {
            seed: augmented(train.images.index_select(0, order), changes[seed], mirror)
            for seed, order in orders.items()
        }
        labels = {seed: train.labels.index_select(0, order) for seed, order in orders.items()}
        everything = {seed: torch.arange(len(order)) for seed, order in orders.items()}
        return torch.stack(self._by_seed(images)), torch.stack(self._by_seed(labels)), everything

    def _by_seed(self, tensors: dict[int, Tensor]) -> list[Tensor]:
        """For each member that of its seed."""
        return [tensors[config.seed] for config in self.configs]

    def _check_weights(self) -> None:
        for name, parameter in self.fused.named_parameters():
            finite = parameter.detach().isfinite().flatten(1).all(dim=1)
            self._note_diverged((m, f"{name} is no longer finite") for m in _false(finite))

    @torch.no_grad()
    def _count_correct(self, test: Split, progress: Progress) -> list[int]:
        self.fused.eval()
        correct = torch.zeros(len(self.configs), dtype=torch.int64)
        for images, labels in zip(
            test.images.split(EVALUATION_BATCH), test.labels.split(EVALUATION_BATCH), strict=True
        ):
            progress(math.ceil(len(self.dataset.train) / self.configs[0].batch_size))
            logits = self.fused(images)
            finite = logits.isfinite().flatten(1).all(dim=1)
            self._note_diverged((m, "the network's output is no longer finite") for m in _false(finite))
            correct += (logits.argmax(dim=2) == labels).sum(dim=1)
        return correct.tolist()

    def _note_diverged(self, found: Iterator[tuple[int, str]]) -> None:
        for member, reason in found:
            self.diverged.setdefault(member, reason)


def _dropout_seeds(seed: int, epoch: int, steps: int) -> Tensor:
    with own_randomness(seed, epoch, "cpu"):
        return draw_seeds(steps)


def _false(flags: Tensor) -> list[int]:
    return (~flags).nonzero().flatten().tolist()
