"""A chunk: the members of a sweep that are trained at once, and the sealed file that holds its state.

While it is trained the file has the state of all its members after the last whole epoch, stacked under the
names that a checkpoint has; in the end it has the tensors of the best of them alone, as in that one's
checkpoint. Its entry has the members' records, and why some have diverged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import Tensor

from lenet_ext.training.checkpoint import of_prefix, optimizer_state_in, state_tensors
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.dataset import Dataset
from lenet_ext.training.errors import InputError, error_text
from lenet_ext.training.learner import restore_optimizer, state_keys
from lenet_ext.training.loop import EpochRecord
from lenet_ext.training.metadata import FIGURES
from lenet_ext.training.network import frozen_description
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.sealed import read_sealed, sealed
from lenet_ext.training.sweep.config import OF_EVERY_MEMBER
from lenet_ext.training.sweep.members import Members

HEADER_ENTRY = "lenet_ext_sweep"
KIND = "chunk of a sweep"
FORMAT = 1
ENGINE = str(OF_EVERY_MEMBER["engine"])  # with which names in checkpoints begin


@dataclass(frozen=True)
class Chunk:
    """A chunk between two epochs.

    histories: a record for each member's epochs. diverged: why, by the member's place in the chunk; such a
    member has no further records. tensors: by their names in the file. frozen: the `frozen_description` of
    any member; None where there is none.
    """

    histories: list[list[EpochRecord]]
    diverged: dict[int, str]
    epoch: int
    finished: bool
    tensors: dict[str, Tensor]
    frozen: dict[str, Any] | None = None

    def sealed(self, key: str) -> bytes:
        """The bytes of its file. key: tells the chunks of one sweep from those of another."""
        diverged = {str(member): reason for member, reason in self.diverged.items()}
        entry: dict[str, Any] = {"format": FORMAT, "key": key, "epoch": self.epoch, "finished": self.finished}
        entry |= {"histories": self.histories, "diverged": diverged, "frozen": self.frozen}
        return sealed(HEADER_ENTRY, entry, self.tensors)


class ChunkObserver(Protocol):
    """Who follows the training of a chunk."""

    def steps_done(self, epoch: int, steps: int) -> None:
        """Called many times in an epoch; may raise what ends the training there."""

    def epoch_done(self, chunk: Chunk) -> None: ...


def read_chunk(path: Path, key: str, configs: Sequence[TrainingConfig]) -> Chunk:
    """The chunk of these members in `path`; an `InputError` where it is damaged, or another sweep's."""
    again = "; delete it to train its networks again"
    try:
        file = read_sealed(path, HEADER_ENTRY, KIND, FORMAT)
    except InputError as error:
        raise InputError(f"{error}{again}") from error
    if file.entry.get("key") != key:
        raise InputError(f"{path}: belongs to another sweep{again}")
    try:
        return _checked(file.entry, file.tensors(), configs)
    except (ArithmeticError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a {KIND} of lenet-ext: {error_text(error)}{again}") from error


def train_chunk(
    configs: Sequence[TrainingConfig],
    dataset: Dataset,
    own: OwnNetwork | None,
    begun: Chunk | None,
    observer: ChunkObserver,
) -> Chunk:
    """Train members with these settings to the end, from where `begun` is; the finished chunk."""
    members = Members(configs, dataset, own)
    histories: list[list[EpochRecord]] = [[] for _ in configs]
    if begun is not None:
        _restore(members, begun)
        histories = [list(history) for history in begun.histories]
    chunk = begun
    while chunk is None or not chunk.finished:
        epoch = 1 if chunk is None else chunk.epoch + 1
        records = members.one_epoch(epoch, partial(observer.steps_done, epoch))
        for history, record in zip(histories, records, strict=True):
            history += [] if record is None else [record]
        finished = epoch == configs[0].epochs or len(members.diverged) == len(configs)
        tensors = state_tensors(ENGINE, members.fused, members.optimizer)
        if finished:
            best = best_of(histories, members.diverged)
            tensors = {} if best is None else _of_member(tensors, best, configs[best])
        frozen = frozen_description(members.fused, members.fused.state_dict())
        chunk = Chunk(histories, dict(members.diverged), epoch, finished, tensors, frozen)
        observer.epoch_done(chunk)
    return chunk


def best_of(histories: Sequence[Sequence[EpochRecord]], diverged: dict[int, str]) -> int | None:
    """The member with the highest test accuracy after its last epoch; of equal ones that with the lowest
    training loss, and then the first. None where all have diverged.
    """
    rest = [member for member in range(len(histories)) if member not in diverged and histories[member]]
    last = {member: histories[member][-1] for member in rest}
    return max(rest, key=lambda m: (last[m]["test_accuracy"], -last[m]["train_loss"], -m), default=None)


def _of_member(stacked: dict[str, Tensor], member: int, config: TrainingConfig) -> dict[str, Tensor]:
    """What a checkpoint of that member alone would hold."""
    unused = {"momentum_buffer"} - state_keys(config)  # another member's momentum gave it a buffer
    return {
        name: tensor[member].clone() for name, tensor in stacked.items() if name.split("/")[2] not in unused
    }


def _restore(members: Members, chunk: Chunk) -> None:
    """Raises `InputError` for tensors of other networks, which only another program could have sealed."""
    weights, states = (
        of_prefix(chunk.tensors, f"{ENGINE}/weight/"),
        optimizer_state_in(chunk.tensors, ENGINE),
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in members.fused.named_parameters()}
    wanted = {name: tuple(tensor.shape) for name, tensor in members.fused.state_dict().items()}
    fits = {name: tuple(tensor.shape) for name, tensor in weights.items()} == wanted
    for key, tensors in states.items():
        for name, tensor in tensors.items():
            shape = (len(members.configs),) if key == "step" else shapes.get(name)
            fits = fits and name in shapes and tuple(tensor.shape) == shape
    if not fits:
        raise InputError(f"a {KIND} has the tensors of other networks")
    members.fused.load_state_dict(weights)
    restore_optimizer(members.fused, members.optimizer, states)
    members.diverged.update(chunk.diverged)


def _checked(entry: dict[str, Any], tensors: dict[str, Tensor], configs: Sequence[TrainingConfig]) -> Chunk:
    """Raises one of the usual errors for what no sweep writes."""
    histories, epoch = entry["histories"], entry["epoch"]
    diverged = {int(member): str(reason) for member, reason in entry["diverged"].items()}
    if type(epoch) is not int or not 1 <= epoch <= configs[0].epochs or type(entry["finished"]) is not bool:
        raise ValueError("no sweep writes such an epoch")
    if len(histories) != len(configs) or not all(0 <= member < len(configs) for member in diverged):
        raise ValueError("no sweep writes so many histories")
    for member, history in enumerate(histories):
        if len(history) > epoch or (len(history) < epoch and member not in diverged):
            raise ValueError("no sweep writes such a history")
        for number, record in enumerate(history, start=1):
            if record["epoch"] != number or not all(_is_finite(record[name]) for name in FIGURES):
                raise ValueError("no sweep writes such a history")
    frozen = entry.get("frozen")  # which older files lack
    if frozen is not None and not isinstance(frozen, dict):
        raise ValueError("no sweep writes such a description")
    return Chunk(histories, diverged, epoch, entry["finished"], tensors, frozen)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
