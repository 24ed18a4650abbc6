"""Training the chunks of a sweep on a Ray cluster.

A chunk is a task of one CPU. Where the worker dies that has it, Ray gives it to another one, which does it
again from where the sweep began; the bits are the same. Data and settings travel to the workers, and the
finished chunks come back: the workers need the package, but neither the data's files nor the sweep's folder.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import lenet_ext
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.dataset import Dataset
from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.sweep.chunk import Chunk, train_chunk
from lenet_ext.training.sweep.state import Sweep

RETRIES = 3  # of a chunk whose worker died
SECONDS_TO_ANSWER = 10.0
SECONDS = 0.2  # between two looks at whether the sweep is to go on


class Observer(Protocol):
    def going_on(self) -> None: ...


@contextmanager
def cluster(address: str) -> Iterator[int]:
    """The cluster at `address`, "" for one of this machine's own; gives the number of its CPUs.

    Raises `InputError` where there is no such cluster.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unasked
    own = not ray.is_initialized()
    if own:
        _check_that_answers(address)
        options: dict[str, Any] = {"include_dashboard": False} if address == "" else {}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="error", **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray {address}: no cluster: {error_text(error)}") from error
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if own:
            ray.shutdown()


def _check_that_answers(address: str) -> None:
    """Ray itself would try HOST:PORT for minutes. Raises `InputError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # some other form, which Ray knows or refuses
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        reason = os_error_text(error) if isinstance(error, OSError) else error_text(error)
        raise InputError(f"--ray {address}: no cluster answers there: {reason}") from error


def train_chunks(sweep: Sweep, keep: Callable[[int, Chunk], None], observer: Observer) -> None:
    """Train those that are pending, and `keep` each as it is finished, in any order."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_train)
    dataset = ray.put(sweep.dataset)
    running = {}
    for number in sweep.pending():
        configs = [sweep.members[member] for member in sweep.ranges()[number]]
        begun = sweep.chunks.get(number)
        running[task.remote(lenet_ext.__version__, configs, dataset, sweep.own, begun)] = number
    try:
        while running:
            observer.going_on()
            done, _ = ray.wait(list(running), timeout=SECONDS)
            for reference in done:
                keep(running[reference], _result(reference, running[reference]))
                del running[reference]
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(reference: Any, number: int) -> Chunk:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise InputError(
            f"--ray: chunk {number} was lost {RETRIES + 1} times: {error_text(error)}; --resume goes on"
        ) from error


def _train(
    version: str,
    configs: Sequence[TrainingConfig],
    dataset: Dataset,
    own: OwnNetwork | None,
    begun: Chunk | None,
) -> Chunk:
    """What a worker does."""
    if lenet_ext.__version__ != version:
        raise InputError(f"--ray: a worker has lenet_ext {lenet_ext.__version__}, wanted {version}")
    return train_chunk(configs, dataset, own, begun, _Silent())


class _Silent:
    def steps_done(self, epoch: int, steps: int) -> None: ...

    def epoch_done(self, chunk: Chunk) -> None: ...
