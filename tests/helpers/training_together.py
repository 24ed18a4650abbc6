"""Run by torchrun in a folder with images in `in` and networks in `net.py`: runs of two processes.

`equal` prints, a line a run, by how much two processes end otherwise than one; `ended` what each process says
of a run that fails, and how one that was stopped goes on. No pictures are drawn, which would take longest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from lenet_ext.training import session
from lenet_ext.training.data import Normalization
from lenet_ext.training.learner import optimizer_state
from lenet_ext.training.loop import Run
from lenet_ext.training.processes import Processes, joined
from lenet_ext.training.session import Resume, train_in_folder

FOLDER = {"data": "folder", "root": "in", "lr": 0.01}
OWN = {**FOLDER, "model": "net.py:Unused", "weight_decay": 0.1, "batch_size": 5, "epochs": 4}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.1, "lr": 0.001, "augment": True}
# Of 12 images in the folder and 1,433 digits: batches of even and odd sizes, last ones that are smaller, and
# batches of one image, of which a process has none.
EQUAL: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "momentum": (torch.float64, {"epochs": 2}),
    "adam": (torch.float64, {"optimizer": "adam", "batch_size": 101, "epochs": 1}),
    "plain sgd, one image": (torch.float64, {**FOLDER, "batch_size": 1, "momentum": 0.0, "epochs": 3}),
    "adamw, last of one": (torch.float64, {**FOLDER, **ADAMW, "batch_size": 11, "epochs": 5}),
    "layers, last of two": (torch.float64, {**FOLDER, "batch_size": 5, "epochs": 5, "engine": "layers"}),
    "all at once": (torch.float64, {**FOLDER, **ADAMW, "batch_size": 500, "epochs": 5}),
    "float32": (torch.float32, {"epochs": 1}),
    "float32, layers": (torch.float32, {**FOLDER, **ADAMW, "batch_size": 5, "epochs": 5, "engine": "layers"}),
    "float32, own": (torch.float32, OWN),
    "float32, own, layers": (torch.float32, {**OWN, "engine": "layers", "optimizer": "adamw"}),
}
# By what the run is refused for, or fails at.
ENDED: dict[str, dict[str, Any]] = {
    "option": {**FOLDER, "epochs": 0},
    "no data": {**FOLDER, "root": "elsewhere"},
    "other data": {**FOLDER, "root": "data"},
    "batch norm": {**FOLDER, "model": "net.py:Norm"},
    "batch norm, layers": {**FOLDER, "model": "net.py:Norm", "engine": "layers"},
    "function of batch norm": {**FOLDER, "model": "net.py:Function", "engine": "layers"},
    "buffer": {**FOLDER, "model": "net.py:Counting", "engine": "layers"},
    "one image": {**FOLDER, "model": "net.py:NotOne", "batch_size": 5, "engine": "layers"},
    "file": {**FOLDER, "model": "nowhere.py:Net"},
    "diverged": {**FOLDER, "lr": 1e30, "epochs": 9},
    "failure in the first": {**FOLDER, "model": "net.py:FailsInFirst", "engine": "layers"},
    "failure in the second": {**FOLDER, "model": "net.py:FailsInSecond", "engine": "layers"},
    "frozen batch norm": {**FOLDER, "model": "net.py:Frozen", "epochs": 1},
    "randomness": {**FOLDER, "model": "net.py:Drawing", "epochs": 2, "batch_size": 5, "engine": "layers"},
}


class Interrupted(BaseException):
    """As by a signal."""


class Watcher:
    """An observer that raises in batch number `last`, and remembers what it was told."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.batches, self.told = last, 0, 0

    def note(self, text: str) -> None:
        self.told += 1

    def run_started(self, run: Run) -> None:
        self.training = True

    def going_on(self) -> None:
        self.batches += 1
        if self.batches == self.last:
            raise Interrupted("as asked for")

    def batch_done(self, *arguments: Any) -> None: ...

    def epoch_done(self, record: dict[str, Any]) -> None: ...

    def picture_failed(self, name: str, message: str) -> None:
        raise AssertionError(message)


def train(
    name: str,
    options: dict[str, Any],
    processes: Processes | None = None,
    resume: Resume = False,
    last: int | None = None,
) -> Run:
    options = {"compare": False, **options}
    return train_in_folder(Path(name), options, resume, Watcher(last), processes=processes)


def tensors(run: Run) -> dict[str, Tensor]:
    """Weights and the optimizer's state, by name."""
    (learner,) = run.learners
    found = dict(learner.model.state_dict())
    for key, states in optimizer_state(learner.model, learner.optimizer).items():
        found.update({f"{key} of {name}": state for name, state in states.items()})
    return found


def difference(run: Run, expected: Run) -> float:
    """The largest of any tensor, and of any record's loss, relative to its norm."""
    ours, theirs = tensors(run), tensors(expected)
    assert ours.keys() == theirs.keys()
    found = [float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp_min(1e-9)) for name in ours]
    for mine, other in zip(run.history, expected.history, strict=True):
        found.append(abs(mine["train_loss"] - other["train_loss"]) / other["train_loss"])
    return max(found)


def equal(processes: Processes) -> None:
    normalized = Normalization.__call__
    Normalization.__call__ = lambda self, images: normalized(self, images).to(torch.get_default_dtype())  # type: ignore[method-assign]
    for name, (dtype, options) in EQUAL.items():
        torch.set_default_dtype(dtype)
        run = train(f"{name} in two", options, processes)
        same = [b""] * processes.count
        dist.all_gather_object(same, b"".join(tensor.numpy().tobytes() for tensor in tensors(run).values()))
        assert same[0] == same[1], "the processes have other bits"
        if processes.is_first:
            print(
                json.dumps([name, str(dtype), difference(run, train(f"{name} in one", options))]), flush=True
            )


def said(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return ["", ""]


def tell(processes: Processes, name: str, call: Callable[[], object]) -> None:
    """Print what `call` raises in each process."""
    all_said: list[Any] = [None] * processes.count
    dist.all_gather_object(all_said, said(call))
    if processes.is_first:
        print(json.dumps([name, *all_said]), flush=True)


def ended(processes: Processes) -> None:
    here = Path.cwd()
    for name, options in ENDED.items():
        os.chdir(f"machine {processes.rank}" if name == "other data" else here)
        tell(processes, name, partial(train, name, options, processes))
    torch.cuda.device_count, torch.cuda.set_device = lambda: 1, lambda device: None
    tell(processes, "one GPU", partial(processes.use, "cuda"))
    # 12 images make 3 batches: the sixth look is in the second epoch, also where test images are looked at.
    options = {**FOLDER, "batch_size": 5, "epochs": 3, "augment": True, "model": "net.py:Dropping"}
    model = {"model": options["model"]}
    train("whole", options, processes)
    for rank in range(processes.count):
        last = 6 if processes.rank == rank else None
        tell(processes, f"stopped in {rank}", partial(train, f"cut {rank}", options, processes, last=last))
        tell(processes, f"resumed {rank}", partial(train, f"cut {rank}", model, processes, resume=True))
        if processes.is_first:
            print(json.dumps([f"as whole {rank}", bits("whole") == bits(f"cut {rank}")]), flush=True)


def bits(name: str) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in load_file(f"{name}/checkpoint.safetensors").values()]


def main(names: Iterable[str]) -> None:
    session.write_pictures = lambda *arguments: None
    with joined() as processes:
        for name in names:
            {"equal": equal, "ended": ended}[name](processes)


if __name__ == "__main__":
    main(sys.argv[1:])
