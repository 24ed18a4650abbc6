"""How much memory a training step takes, each engine in a process of its own."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.engines import EAGER, FUSE_SGD, TRAIN_STEP, Engine
from benchmarks.models import LENET
from benchmarks.tasks import TRAINING_STEP, Task

ENGINES = {engine.name: engine for engine in (TRAIN_STEP, FUSE_SGD, EAGER)}
BATCH = 4096
WARM_BATCH = 2
STEPS = 2

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def training_memory(batch: int) -> dict[str, float]:
    """MiB at the peak of a LeNet's training step, above weights and the batch.

    By the engine's name; empty where the system does not tell (all but Linux).
    """
    if not CLEAR.exists():
        return {}
    memory = {}
    for name in ENGINES:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            tasks = (Task(model=LENET, batch=size, direction=TRAINING_STEP) for size in (WARM_BATCH, batch))
            memory[name] = process.submit(peak_kibibytes, ENGINES[name], *tasks).result() / 1024
    return memory


def peak_kibibytes(engine: Engine, warm: Task, task: Task) -> int:
    """Resident pages at their most during a step of `task` less those before it, and after one of `warm`."""
    small, large = engine.prepare(warm), engine.prepare(task)
    assert small is not None
    assert large is not None
    small.call()  # what every step needs, whatever its batch: code, tables
    before = _status("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    for _ in range(STEPS):
        large.call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
