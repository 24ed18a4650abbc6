"""Engines in processes of their own."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from benchmarks import processes
from benchmarks.engines import EAGER, FREEZE, TRAIN_STEP, Engine, Run
from benchmarks.measure import measure
from benchmarks.models import LENET
from benchmarks.tasks import INFERENCE, TRAINING_STEP, Task
from benchmarks.timing import Effort

STEP = Task(model=LENET, batch=2, direction=TRAINING_STEP)


def settings(task: Task) -> Run:
    def check() -> dict[str, int]:
        return {"process": os.getpid(), "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled()}

    return Run(lambda: None, check)


def test_threads_and_grad_mode_are_those_of_the_task() -> None:
    """Of one task after the other, in a process that stays."""
    found = []
    for task in (STEP, replace(STEP, direction=INFERENCE, threads=2)):
        prepared = processes.prepare(Engine("settings", settings), task)
        assert prepared is not None
        found.append({name: int(value) for name, value in prepared[1].items()})
    process = found[0]["process"]
    assert process != os.getpid()
    assert found == [
        {"process": process, "threads": 1, "grad": True},
        {"process": process, "threads": 2, "grad": False},
    ]


def test_every_engine_may_run_apart() -> None:
    """Those that cannot do the task are left out."""
    one = measure(STEP, [TRAIN_STEP, FREEZE, EAGER], Effort(seconds=0, fewest=2), apart=True)
    assert not one.wrong
    assert list(one.timings) == [TRAIN_STEP.name, EAGER.name]
