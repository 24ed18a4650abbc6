"""The processes that train one network together, as torchrun starts them.

Every process goes through the same steps, and they talk in the same order. So that a failure in one of them
leaves none waiting, it is told in the next talk, and all of them end there: the process that failed by its
own error, the others by `ProcessEnded`. A signal to one of them, an exception that is no `Exception`, ends
all alike. One that dies without a word closes its connections, which the others meet as an error in their
next talk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lenet_ext.training.errors import InputError, ProcessEnded, error_text

T = TypeVar("T")


class Processes:
    """This process, number `rank` of `count`: its share of the common work, and its talk to the others.

    on_machine, local_rank: how many of them run on this machine, and the number of this one among those. A
    process by itself, as made without arguments, talks to nobody.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, on_machine: int = 1) -> None:
        self.rank, self.count = rank, count
        self.local_rank, self.on_machine = local_rank, on_machine
        self._failure: BaseException | None = None  # of this process, which the others are yet to be told
        self._group: Any = None  # in which tensors travel; None: torch's default group, of gloo

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates, writes the files and speaks to the user."""
        return self.rank == 0

    def share(self, images: int) -> slice:
        """Which of so many images are those of this process: equal shares, the first ones larger by one."""
        each, more = divmod(images, self.count)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def use(self, device: str) -> None:
        """Tensors are on `device`: "cuda" is one GPU for each process. All processes call this."""
        if self.count == 1 or device != "cuda":
            return
        with self.agreed():
            there = torch.cuda.device_count()
            if self.local_rank >= there:
                raise InputError(
                    f"--device cuda: {self.on_machine} processes on this machine, which has {there} CUDA "
                    f"device{'s' * (there != 1)}: wanted one for each; start fewer, or use --device cpu"
                )
            torch.cuda.set_device(self.local_rank)
        if dist.is_nccl_available():
            with self._talk():
                self._group = dist.new_group(backend="nccl")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What is raised within is raised by the next talk; in a process by itself, here."""
        try:
            yield
        except BaseException as error:
            if self.count == 1:
                raise
            self._failure = self._failure or error

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What every process does, without a talk: where one of them fails within, all end behind it.

        Of several that fail with the same text the first one says it.
        """
        with self.deferred():
            yield
        if self.count == 1:
            return
        texts: list[str | None] = [None] * self.count
        with self._talk():
            dist.all_gather_object(texts, None if self._failure is None else str(self._failure))
        if any(text is not None for text in texts):
            own = texts[self.rank]
            if own is not None and texts.index(own) != self.rank:
                self._failure = None
            self._end()

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone calls it; where it raises, all end."""
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, False]  # the result, and whether there is one
        if self.is_first:
            with self.deferred():
                outcome = [work(), True]
        with self._talk():
            dist.broadcast_object_list(outcome, src=0)
        if not outcome[1]:
            self._end()
        return outcome[0]

    def sums(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The sum over all processes of each of these 1-d tensors of one dtype, bitwise the same in each.

        Where one of them has deferred a failure, all end here.
        """
        failed = values[0].new_tensor([self._failure is not None])
        whole = torch.cat([*values, failed])
        with self._talk():
            dist.all_reduce(whole, group=self._group)
        *sums, failures = whole.split([*map(len, values), 1])
        if failures.item() > 0:
            self._end()
        return sums

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give these tensors the values that they have in the first process."""
        if self.count == 1:
            return
        with self._talk(), torch.no_grad():
            for tensor in tensors:
                sent = tensor.contiguous()  # a weight may be in channels_last format
                dist.broadcast(sent, src=0, group=self._group)
                tensor.copy_(sent)

    def alike(self, error: Exception) -> Exception:
        """To raise for what all processes meet at the same place, so that the first one alone says it."""
        return error if self.is_first else ProcessEnded()

    def _end(self) -> None:
        """Raise the failure of this process, or `ProcessEnded` for that of another one, which says it.

        All processes call this. What stops the program in one, such as a signal, is raised in all: one may
        have noted it before another.
        """
        failure, self._failure = self._failure, None
        stops: list[BaseException | None] = [None] * self.count
        with self._talk():
            dist.all_gather_object(stops, None if isinstance(failure, Exception) else failure)
        raise failure or next((stop for stop in stops if stop is not None), ProcessEnded())

    @contextmanager
    def _talk(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # Without the place in gloo's sources before the first sentence, and without the advice behind it.
            reason = re.sub(r"^\[\S+\] ", "", error_text(error)).split(". ")[0]
            who = f"process {self.rank} of {self.count}"
            raise ProcessEnded(f"{who}: another process has ended, or cannot be reached: {reason}") from error


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """The processes that torchrun, or any launcher that sets torch's variables, has started with this one.

    Without RANK and WORLD_SIZE in `environment`, and with a WORLD_SIZE of 1, this is a process by itself.
    Raises `InputError` where they make no sense, or where the others do not come.
    """
    processes = described(environment)
    if processes.count == 1:
        yield processes
        return
    if not (dist.is_available() and dist.is_gloo_available()):
        raise InputError(
            f"WORLD_SIZE={processes.count}: this torch was built without torch.distributed and gloo"
        )
    try:
        dist.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        where = f"process {processes.rank} of {processes.count}"
        raise InputError(f"{where}: cannot join the others: {error_text(error)}") from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def described(environment: Mapping[str, str]) -> Processes:
    """What torch's variables in `environment` say of this process; see `joined`."""
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return Processes()
    count = _number(environment, "WORLD_SIZE", 1)
    rank = _number(environment, "RANK", 0, count)
    if count == 1:
        return Processes()
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            raise InputError(
                f"RANK and WORLD_SIZE={count} are set and {name} is not: wanted all, as torchrun does"
            )
    if "LOCAL_RANK" not in environment:  # not from torchrun: nothing is known of the machine
        return Processes(rank, count)
    on_machine = (
        _number(environment, "LOCAL_WORLD_SIZE", 1, count + 1) if "LOCAL_WORLD_SIZE" in environment else 1
    )
    return Processes(rank, count, _number(environment, "LOCAL_RANK", 0, count), on_machine)


def _number(environment: Mapping[str, str], name: str, least: int, end: int | None = None) -> int:
    text = environment[name]
    wanted = f"at least {least}" + ("" if end is None else f", less than {end}")
    if (
        not (text.isascii() and text.isdecimal())
        or int(text) < least
        or (end is not None and int(text) >= end)
    ):
        raise InputError(f"{name}={text}: wanted a whole number, {wanted}")
    return int(text)
