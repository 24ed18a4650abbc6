"""`train` under torchrun: two processes end as one does, and end together; `sweep` refuses them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import HELPERS, SEARCHED, python
from training_helpers import write_image_folders

from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.files import locked
from lenet_ext.training.run_pictures import PICTURES

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch was built without distributed and gloo",
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TRAIN = ("-m", "lenet_ext", "train")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
NETWORKS = """
import os
import torch
from torch import nn
import torch.nn.functional as F

class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))

class Unused(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.spare = nn.Linear(3, 4)
        self.conv.bias.requires_grad_(False)
        self.conv.to(memory_format=torch.channels_last)

class Dropping(Plain):
    def forward(self, x):
        return self.fc(F.dropout(F.relu(self.conv(x)).mean((2, 3)), 0.5, self.training))

def Norm(num_classes):
    last = nn.Sequential(nn.Flatten(), nn.Linear(4 * 14**2, num_classes))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), last)

class Frozen(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.norm = nn.BatchNorm2d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return super().forward(self.norm(x))

class Function(Plain):
    def forward(self, x):
        return super().forward(F.batch_norm(x, None, None, training=True))

class Counting(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.largest.copy_(torch.maximum(self.largest, x.detach().max()))
        return super().forward(x)

class NotOne(Plain):
    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)).squeeze())

class Fails(Plain):
    rank, calls = None, 0

    def forward(self, x):
        self.calls += self.training and len(x) != 2
        if os.environ["RANK"] == self.rank and self.calls == 3:
            raise ArithmeticError("mine alone")
        return super().forward(x)

class Dies(Fails):
    def forward(self, x):
        if os.environ["RANK"] == "1" and self.training and len(x) != 2:
            os.kill(os.getpid(), 9)
        return super().forward(x)

class Drawing(Plain):  # fails where the processes draw the same numbers
    def forward(self, x):
        if torch.is_grad_enabled():
            drawn = [torch.empty(9) for _ in range(2)]
            torch.distributed.all_gather(drawn, torch.rand(9))
            assert not torch.equal(*drawn)
        return super().forward(x)

class FailsInFirst(Fails):
    rank = "0"

class FailsInSecond(Fails):
    rank = "1"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_image_folders(tmp_path / "in")
    (tmp_path / "net.py").write_text(NETWORKS)
    return tmp_path


def together(part: str) -> list[list[Any]]:
    """What the helper prints of this part."""
    script = HELPERS / "training_together.py"
    finished = python(*TORCHRUN, script, part, environment=ONE_THREAD)
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.mark.usefixtures("folder")
def test_two_processes_end_as_one() -> None:
    """Weights, state of the optimizer and losses, after some epochs, and bitwise the same in both.

    Beside a double's 2e-16 and a float's 1e-7, which sums in another order differ by and steps amplify.
    """
    lines = together("equal")
    assert len(lines) == 10
    for name, dtype, difference in lines:
        assert difference < {"torch.float64": 1e-12, "torch.float32": 2e-5}[dtype], name


def test_all_processes_end(folder: Path) -> None:
    """Where one fails or is stopped; what all meet is said once."""
    for machine in ("machine 0", "machine 1"):
        write_image_folders(folder / machine / "data")
    (folder / "machine 1/data/train/cat/0.png").unlink()
    said = {name: rest for name, *rest in together("ended")}
    quiet, nothing = ["ProcessEnded", ""], ["", ""]
    stopped, failed = ["Interrupted", "as asked for"], ["ArithmeticError", "mine alone"]
    for name, expected in {
        "failure in the first": [failed, quiet],
        "failure in the second": [quiet, failed],
        "frozen batch norm": [nothing, nothing],
        "randomness": [nothing, nothing],
        "stopped in 0": [stopped, stopped],
        "stopped in 1": [stopped, stopped],
        "resumed 0": [nothing, nothing],
        "resumed 1": [nothing, nothing],
        "as whole 0": [True],
        "as whole 1": [True],
    }.items():
        assert said.pop(name) == expected, name
    other_data = said.pop("other data")
    assert other_data == [quiet, ["InputError", "--root data: process 1 finds other data than process 0"]]
    gpus = "--device cuda: 2 processes on this machine, which has 1 CUDA device: wanted one for each"
    assert said.pop("one GPU") == [quiet, ["InputError", f"{gpus}; start fewer, or use --device cpu"]]
    statistics = (
        "statistics in training are those of a whole batch, of which a process sees a share: train it in"
    )
    for name, text in {
        "option": "--epochs 0: wanted 1 to ",
        "no data": "elsewhere/train: cannot be read as a folder: ",
        "batch norm": f"--model net.py:Norm: 1 is a BatchNorm2d, whose {statistics}",
        "batch norm, layers": f"--model net.py:Norm: 1 is a BatchNorm2d, whose {statistics}",
        "function of batch norm": "--model net.py:Function: calls batch_norm with the statistics of a whole",
        "buffer": "--model net.py:Counting: the buffer largest changes in training, and a process sees only ",
        "one image": "--model net.py:NotOne: --batch-size 5 leaves a process one image: gives (2,) for ",
        "file": "--model nowhere.py:Net: nowhere.py: cannot be read: ",
        "diverged": "the network's output is no longer finite, in epoch 1 (engine fused); the checkpoint of ",
    }.items():
        (kind, line), second = said.pop(name)
        assert (kind, second) == ("InputError", quiet), name
        assert line.startswith(text)
        assert not (folder / name / "checkpoint.safetensors").exists() or name == "diverged"
    assert not said


@pytest.mark.usefixtures("folder")
def test_the_first_process_speaks_and_writes() -> None:
    options = ("--data", "folder", "--root", "in", "--epochs", "2", "--batch-size", "5")
    result = python(*TORCHRUN, *TRAIN, *options, "--out", "run", environment=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "lenet_ext and native torch on cpu in 2 processes, 0 of 2 epochs done\n" in result.stdout
    for text in ("folder: 12 training", "epoch   1", "epoch   2", "written to run: ", "seconds of training"):
        assert result.stdout.count(text) == 1, text
    names = {"checkpoint.safetensors", "metrics.jsonl", "config.json", *PICTURES}
    assert {path.name for path in Path("run").iterdir()} == names
    assert [json.loads(line)["epoch"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
    ]


@pytest.mark.usefixtures("folder")
def test_a_sweep_refuses_several_processes() -> None:
    """Once, and before it makes its folder."""
    result = python(*TORCHRUN, "-m", "lenet_ext", "sweep", "--out", "run", environment=ONE_THREAD)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("lenet-ext: ")]
    wanted = "sweep trains in one process; start it without torchrun, and spread it by --ray"
    assert line == f"lenet-ext: error: WORLD_SIZE=2: {wanted}"
    assert not Path("run").exists()


@pytest.mark.usefixtures("folder")
def test_a_process_that_dies_ends_the_other() -> None:
    options = ("--data", "folder", "--root", "in", "--engine", "layers", "--model", "net.py:Dies")
    result = python(*TORCHRUN, *TRAIN, *options, "--out", "run", environment=ONE_THREAD)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("lenet-ext: ")]
    beginning = "lenet-ext: error: process 0 of 2: another process has ended, or cannot be reached: "
    assert re.fullmatch(re.escape(beginning) + r"[\w\[\]:., ]+", line)
    assert load_checkpoint(Path("run/checkpoint.safetensors")).metadata.epoch == 0


@pytest.mark.usefixtures("folder", "no_signal_is_ignored")
def test_interrupt_ends_all_in_order() -> None:
    """torchrun hands its signals on."""
    process = subprocess.Popen(
        [sys.executable, *TORCHRUN, *TRAIN, "--no-compare", "--epochs", "100000", "--out", "run"],
        env={**os.environ, "PYTHONPATH": SEARCHED, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("epoch   2 ") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.terminate()  # and torchrun with it ends the others
    assert process.returncode != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("lenet-ext: ")]
    again = "lenet-ext train --resume --out run, started by torchrun again, goes on from the last epoch"
    assert line.startswith(f"lenet-ext: stopped by SIGINT; {again}")
    assert load_checkpoint(Path("run/checkpoint.safetensors")).metadata.epoch >= 2
    with locked(Path("run")):  # nobody has it any more
        pass
