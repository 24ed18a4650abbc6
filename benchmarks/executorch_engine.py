"""ExecuTorch: inference of a program that torch exported, by XNNPACK's kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from benchmarks.engines import Engine, Run, result_run
from benchmarks.tasks import INFERENCE, Model, Task

METHOD = "forward"
STANDARD_ERROR = 2


def executorch_run(task: Task) -> Run | None:
    """With all that XNNPACK takes given to it, for the batch size."""
    if task.direction != INFERENCE:
        return None
    with _quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        # One pool for the process. What was loaded before has it no longer, and must not be called again.
        portable_lib._unsafe_reset_threadpool(task.threads)
        method = Runtime.get().load_program(_program(task.model, task.batch)).load_method(METHOD)
    inputs = [task.images()]
    return result_run("output", lambda: method.execute(inputs)[0])


@cache
def _program(model: Model, batch: int) -> bytes:
    """Exported once in each process, whatever the number of threads."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    task = Task(model=model, batch=batch, direction=INFERENCE)
    exported = torch.export.export(task.module().eval(), (task.images(),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the standard error output, where its compiled part reports each thread pool that it makes."""
    kept, nowhere = os.dup(STANDARD_ERROR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)


EXECUTORCH = Engine("ExecuTorch", executorch_run, packages=("executorch",))
