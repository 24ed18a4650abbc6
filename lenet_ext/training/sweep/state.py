"""What is known of a sweep while it goes on: the records of its members, and what they say together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from lenet_ext.training.config import FREE_TO_CHANGE, TrainingConfig
from lenet_ext.training.data import Normalization
from lenet_ext.training.dataset import Dataset
from lenet_ext.training.loop import EpochRecord
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.sweep.chunk import Chunk, best_of
from lenet_ext.training.sweep.config import AXES, SweepConfig

Values = tuple[float, float, float]  # of AXES


@dataclass(frozen=True)
class Combination:
    """The members that differ in their seeds alone.

    results: the last records of those that have not diverged.
    """

    values: Values
    members: list[int]
    results: list[EpochRecord]
    diverged: int

    @property
    def accuracy(self) -> float | None:
        """The mean of the results' test accuracies; None where there is none."""
        return fmean(record["test_accuracy"] for record in self.results) if self.results else None


@dataclass
class Sweep:
    """A sweep between two epochs of its chunks. chunk_size: how many members are trained at once."""

    config: SweepConfig
    dataset: Dataset
    data_sha256: str
    own: OwnNetwork | None
    chunk_size: int
    chunks: dict[int, Chunk] = field(default_factory=dict)  # those begun, by their numbers

    @cached_property
    def members(self) -> list[TrainingConfig]:
        return self.config.members()

    @cached_property
    def normalize(self) -> Normalization:
        return Normalization.of(self.dataset.train.images)

    @cached_property
    def key(self) -> str:
        """Tells this sweep from others: a SHA-256 of what decides its outcome and its chunks."""
        options = self.config.options()
        options = {name: value for name, value in options.items() if name not in FREE_TO_CHANGE}
        network = None if self.own is None else (self.own.name, self.own.sha256)
        text = json.dumps([options, self.data_sha256, network, self.chunk_size], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def ranges(self) -> list[range]:
        """The members of each chunk."""
        count, size = len(self.members), self.chunk_size
        return [range(low, min(low + size, count)) for low in range(0, count, size)]

    def pending(self) -> list[int]:
        """The numbers of the chunks that are not finished."""
        done = {number for number, chunk in self.chunks.items() if chunk.finished}
        return [number for number in range(len(self.ranges())) if number not in done]

    def histories(self) -> list[list[EpochRecord]]:
        """Those of all members."""
        found: list[list[EpochRecord]] = []
        for number, members in enumerate(self.ranges()):
            chunk = self.chunks.get(number)
            found += [[] for _ in members] if chunk is None else chunk.histories
        return found

    def diverged(self) -> dict[int, str]:
        """Why, by the member."""
        return {
            members[place]: reason
            for number, members in enumerate(self.ranges())
            if number in self.chunks
            for place, reason in self.chunks[number].diverged.items()
        }

    def best(self) -> int | None:
        """The best member of the finished chunks (`best_of`)."""
        histories, unfinished = self.histories(), self.pending()
        for number in unfinished:
            for member in self.ranges()[number]:
                histories[member] = []
        return best_of(histories, self.diverged())

    def combinations(self) -> list[Combination]:
        """All, in the order of the members."""
        histories, diverged = self.histories(), self.diverged()
        members_of: dict[Values, list[int]] = {}
        for member, config in enumerate(self.members):
            members_of.setdefault((config.lr, config.momentum, config.weight_decay), []).append(member)
        return [
            Combination(
                values,
                members,
                [histories[m][-1] for m in members if histories[m] and m not in diverged],
                sum(m in diverged for m in members),
            )
            for values, members in members_of.items()
        ]

    def lines(self) -> list[dict[str, Any]]:
        """Those of sweep.jsonl: one for each member and epoch; `final` in the last one of a member."""
        lines, diverged = [], self.diverged()
        for member, (config, history) in enumerate(zip(self.members, self.histories(), strict=True)):
            settings = {"member": member, **{name: getattr(config, name) for name in (*AXES, "seed")}}
            rows: list[Mapping[str, Any]] = [*history]
            if member in diverged:
                rows.append({"epoch": len(history) + 1, "diverged": diverged[member]})
            for row in rows:
                final = row is rows[-1] and (member in diverged or row["epoch"] == config.epochs)
                lines.append({**settings, **row, "final": final})
        return lines


def values_text(values: Values, names: Sequence[str] = AXES) -> str:
    """As it is shown to the user. names: of those of `AXES` that are to be told."""
    told = [(name, value) for name, value in zip(AXES, values, strict=True) if name in names]
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in told)
