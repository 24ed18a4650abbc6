"""Engines each in a process of its own.

Two pools of threads in one process would share its memory allocator and the CPUs that it may use, and the
threads of one would wait busily beside the work of the other.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.engines import Engine, Run
from benchmarks.tasks import Task
from benchmarks.timing import Timed, keep_freed_memory, seconds_of

_run: Run | None = None  # within such a process: what it is timed on


def prepare(engine: Engine, task: Task) -> tuple[Timed, Mapping[str, Any]] | None:
    """The task ready to be timed in the engine's process, and its results; None for what it cannot do."""
    process = _process_of(engine.name)
    results = process.submit(_prepare, engine, task).result()
    if results is None:
        return None
    return lambda untimed, timed: process.submit(_seconds, untimed, timed).result(), results


@cache
def _process_of(name: str) -> ProcessPoolExecutor:
    """One that begins with nothing of this process's, waits between its tasks and ends with this process."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)


def _begin() -> None:
    keep_freed_memory()
    logging.disable(logging.WARNING)  # torch's exporter tells much about itself
    warnings.simplefilter("ignore")


def _prepare(engine: Engine, task: Task) -> dict[str, Any] | None:
    import numpy  # whose arrays come back by value; a tensor would come as memory that two processes share

    global _run
    _run = None  # before the next one takes memory
    torch.set_num_threads(task.threads)
    torch.set_grad_enabled(task.with_autograd)
    _run = engine.prepare(task)
    return None if _run is None else {name: numpy.asarray(one) for name, one in _run.check().items()}


def _seconds(untimed: int, timed: int) -> float:
    assert _run is not None
    return seconds_of(_run.call, untimed, timed)
