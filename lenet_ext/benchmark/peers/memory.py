"""How much memory a training step takes, each engine in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lenet_ext.benchmark.cases import TRAINING_STEP
from lenet_ext.benchmark.peers.engines import Engine
from lenet_ext.benchmark.peers.networks import LENET, Task
from lenet_ext.benchmark.peers.torch_engines import EAGER, FUSE_SGD, TRAIN_STEP

ENGINES: Sequence[Engine] = (TRAIN_STEP, FUSE_SGD, EAGER)
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
    return {engine.name: _in_new_process(engine.name, batch) for engine in ENGINES}


def _in_new_process(engine: str, batch: int) -> float:
    command = [sys.executable, "-m", __name__, engine, str(batch)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed) / 1024


def _peak_kibibytes(engine: Engine, batch: int) -> int:
    """Resident pages at their most during a step less those before it."""
    task = Task(network=LENET, batch=batch, direction=TRAINING_STEP, threads=1)
    warm_up = Task(network=LENET, batch=WARM_BATCH, direction=TRAINING_STEP, threads=1)
    small, step = engine.training(warm_up), engine.training(task)
    assert small is not None
    assert step is not None
    small()  # what every step needs, whatever its batch: code, tables
    before = _status("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    for _ in range(STEPS):
        step()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    by_name = {engine.name: engine for engine in ENGINES}
    print(_peak_kibibytes(by_name[sys.argv[1]], int(sys.argv[2])))
