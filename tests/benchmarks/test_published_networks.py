"""Networks of a file, or of the tests, are read, checked, timed and written. Never how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from networks import NETWORKS
from torch import nn

from benchmarks import published_networks as program
from benchmarks.engines import EAGER, Engine, Run
from benchmarks.measure import Measurement, measure
from benchmarks.network_engines import (
    NETWORK_CHANNELS_LAST,
    NETWORK_EAGER,
    OURS,
    network_run,
    refusal,
    training_loop,
)
from benchmarks.networks import OWN, MalformedError, Network, read_networks
from benchmarks.tasks import INFERENCE, TRAINING_STEP, Task
from benchmarks.timing import Effort

BRIEF = Effort(seconds=0, fewest=2)

FILE = '''
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Entry:
    name: str
    make: object
    shapes: tuple
    opt: tuple
    loss: str
    source: str = "a paper"
    dtypes: tuple = (torch.float32,)

class Viewed(nn.Module):
    """Which channels_last cannot be viewed as."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(108, 4)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.fc(x.view(x.shape[0], -1))

class Headed(nn.Module):
    """Two outputs, of which the loss is about the first."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.fc = nn.Conv2d(2, 3, 3), nn.Dropout(), nn.Linear(48, 4)

    def forward(self, x):
        x = self.drop(self.conv(x).flatten(1))
        return {"class": self.fc(x), "features": x}

class Critic(Headed):
    """The second output has parameters of its own."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(48, 1)

    def forward(self, x):
        outputs = super().forward(x)
        return outputs["class"], self.value(outputs["features"])

def tagged():
    return nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 4))

ZOO = [
    Entry("viewed", Viewed, ((2, 8, 8),), ("Adam", dict(lr=0.01)), "cross_entropy"),
    Entry("headed", Headed, ((2, 6, 6),), ("SGD", dict(lr=0.1, momentum=0.9)), "cross_entropy"),
    Entry("critic", Critic, ((2, 6, 6),), ("SGD", dict(lr=0.1)), "cross_entropy"),
    Entry("embedded", tagged, ((4,),), ("SGD", dict(lr=0.1)), "mse", dtypes=(torch.int64,)),
    Entry("of two", nn.Bilinear, ((4,), (4,)), ("SGD", dict(lr=0.1)), "mse"),
]
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small_networks.py"
    path.write_text(FILE)
    return path


def test_networks_of_a_file_are_timed_and_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "EFFORT", BRIEF)
    monkeypatch.setattr(program, "RECIPES", [])  # torch.compile takes long
    monkeypatch.setattr(program, "keep_freed_memory", lambda: None)  # it would outlive the test
    out = tmp_path / "results"
    program.main(["--networks", str(file), "--out", str(out)])
    printed = capsys.readouterr().out
    text = (out / "published_networks.md").read_text()
    assert text.partition("\n![")[0] in printed
    assert "`fuse` takes 3 of 5 networks." in text
    assert "| viewed | Adam, cross_entropy |" in text
    assert "| headed | SGD, cross_entropy" in text
    assert "| critic | SGD, a loop" in text
    assert "- embedded: fuse: example_input must be torch.float32" in text
    assert "- of two: it has 2 inputs" in text
    assert text.count("- training step, B=32: geometric mean ") == 1
    assert (out / "published_networks.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((out / "published_networks.json").read_text())
    records = content["measurements"]
    calls = [(one["direction"], one["batch"]) for one in records]
    assert calls == 3 * [(INFERENCE, 1), (INFERENCE, 32), (TRAINING_STEP, 32)]
    for one in records:
        assert not one["wrong"]
        viewed = one["name"] == "viewed"
        assert (NETWORK_CHANNELS_LAST.name in one["timings"]) != viewed
        assert {OURS.name, EAGER.name} <= one["timings"].keys()
        others = [timing["median"] for name, timing in one["timings"].items() if name != OURS.name]
        assert one["speedup"] == min(others) / one["timings"][OURS.name]["median"]
    assert records[0]["optimizer"] == "Adam"
    assert records[0]["options"] == {"lr": 0.01}


def test_a_wrong_step_is_not_timed(file: Path) -> None:
    """One that forgets the running statistics, and whose outputs and gradients are right."""

    def forgetful(task: Task) -> Run:
        def make(dtype: torch.dtype) -> nn.Module:
            module = task.module().to(dtype)
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.momentum = 0.0
            return module

        return network_run(task, make, training_loop)

    network = read_networks(str(file))[0]
    task = Task(model=network, batch=4, direction=TRAINING_STEP)
    one = measure(task, [Engine("forgetful", forgetful), OURS], BRIEF, NETWORK_EAGER)
    assert one.timings.keys() == {OURS.name}
    assert "change differs from torch eager's" in one.wrong["forgetful"]


def test_a_wrong_result_of_ours_ends_the_program_after_the_tables(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(task: Task, *_: object) -> Measurement:
        return Measurement(task, {}, {OURS.name: f"{OURS.name} ({task}): output 0 differs"})

    monkeypatch.setattr(program, "measure", wrong)
    monkeypatch.setattr(program, "RECIPES", [])
    monkeypatch.setattr(program, "keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit, match="9 wrong results of ours"):
        program.main(["--networks", str(file)])
    assert "- lenet_ext (viewed, inference, batch 1, 1 thread): output 0 differs" in capsys.readouterr().out


def test_networks_of_the_tests_can_be_timed() -> None:
    networks = {network.name: network for network in read_networks(OWN)}
    assert networks.keys() == NETWORKS.keys()
    for name in ("residual", "actor and critic", "dropout and batch norm"):
        network = networks[name]
        assert not refusal(network)
        assert network.is_random == NETWORKS[name].is_random
        task = Task(model=network, batch=4, direction=TRAINING_STEP)
        one = measure(task, [OURS, NETWORK_EAGER], BRIEF, NETWORK_EAGER)
        assert not one.wrong
        assert one.timings.keys() == {OURS.name, EAGER.name}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "is no file"),
        ("x = 1", "has no list ZOO of networks"),
        ("raise KeyError('x')", "cannot be imported: KeyError: 'x'"),
        ("ZOO = [1]", "entry 1 has no name"),
        (FILE + "ZOO += ZOO", "has 2 networks named 'viewed'"),
        (
            FILE + "ZOO[1].shapes = (2, 6, 6)",
            "entry 2: shapes must be a tuple of tuples of sizes, got (2, 6, 6)",
        ),
        (FILE + "ZOO[1].opt = ('Sgd', {})", "entry 2: opt must be the name of an optimizer of torch.optim"),
        (FILE + "ZOO[1].make = None", "entry 2: make must be a function, got None"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text: str | None, error: str, tmp_path: Path) -> None:
    path = tmp_path / "bad_networks.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MalformedError) as raised:
        read_networks(str(path))
    assert error in str(raised.value)
    with pytest.raises(SystemExit) as ended:
        program.main(["--networks", str(path)])
    message = str(ended.value)
    assert message == f"--networks: {raised.value}; --help tells the format"
    assert "\n" not in message


def test_a_network_that_does_not_run_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(FILE + "def broken(): raise ValueError('no weights')\nZOO[0].make = broken")
    monkeypatch.setattr(program, "keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit, match="viewed does not run: ValueError: no weights"):
        program.main(["--networks", str(file)])


def test_recipes_have_engines_that_can_do_them() -> None:
    for network, direction, engines in program.RECIPES:
        assert isinstance(network, Network)
        task = Task(model=network, batch=2, direction=direction)
        present = [engine for engine in engines if not engine.compiles]
        one = measure(task, present, BRIEF, NETWORK_EAGER)
        assert not one.wrong
        assert len(one.timings) == len(present) == 3
