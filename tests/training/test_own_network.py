"""Networks of the user's own: trained, resumed, used, and refused."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import Program, files_in, write_checkpoint, write_image_folders

from lenet_ext.commands.stopping import Stopped
from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.errors import InputError
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.predict import network_in

NETWORK = """
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=1, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(self.drop(x.mean((2, 3))))

def mlp(**options):
    size = options["in_channels"] * options["image_size"] ** 2
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, options["num_classes"]))

class Recurrent(nn.Module):  # which the fused engine does not have
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.conv, self.rnn = nn.Conv2d(in_channels, 4, 3), nn.GRU(4, 5, batch_first=True)
        self.fc = nn.Linear(5, num_classes)

    def forward(self, x):
        _, last = self.rnn(self.conv(x).mean(3).transpose(1, 2))
        return self.fc(last[0])

class Plain(nn.Module):
    def forward(self, x): return x.mean((1, 2, 3))[:, None].expand(-1, 2)

def wrong_shape(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
def wrong_input(): return nn.Conv2d(5, 2, 3)
def no_module(): return 3
def needs_more(depth): return nn.Identity()
def linear(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
def frozen(): return linear().requires_grad_(False)
def double(): return linear().double()
def raises():
    return undefined_name
THREE = 3
"""
OPTIONS = ("--data", "folder", "--root", "in", "--epochs", 2, "--batch-size", 5)


@pytest.fixture
def network(program: Program) -> Path:
    """In the current folder, with images beside it."""
    write_image_folders(Path("in"))
    path = Path("net.py")
    path.write_text(NETWORK)
    return path


@pytest.mark.parametrize("own", ["--model net.py:Net", "--trust-model"])
def test_stopped_says_how_to_go_on(program: Program, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    """The command named no network, and was refused for a run with one's own."""

    def stop(*arguments: object, **options: object) -> NoReturn:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("lenet_ext.training.session.train_in_folder", stop)
    result = program("train", "--resume", *own.split(), "--out", "run")
    assert result.code == 128 + signal.SIGTERM
    assert f"; lenet-ext train --resume --out run {own} goes on from" in result.err


def bits(path: str) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("engine", ["fused", "layers"])
def test_resumed_is_uninterrupted(program: Program, engine: str, optimizer: str) -> None:
    """Batch norm, dropout, changed images and all: bitwise, and the twin's too."""
    options = (*OPTIONS, "--model", "net.py:Net", "--engine", engine, "--optimizer", optimizer, "--augment")
    options = (*options, "--weight-decay", 0.01, "--label-smoothing", 0.1, "--schedule", "step")
    assert program("train", *options, "--out", "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:  # killed after the first epoch
        patch.setattr("lenet_ext.training.session.write_atomically", stop_after_two_metrics())
        with pytest.raises(Killed):
            program("train", *options, "--out", "cut")
    assert load_checkpoint(Path("cut/checkpoint.safetensors")).metadata.epoch == 1
    result = program("train", "--resume", "--out", "cut", "--model", "net.py:Net")
    assert result.code == 0, result.err
    whole = bits("whole/checkpoint.safetensors")
    assert whole == bits("cut/checkpoint.safetensors")
    kinds = {name.split("/")[2] for name in whole if name.startswith(f"{engine}/optimizer/")}
    assert kinds == ({"momentum_buffer"} if optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"})
    assert f"{engine}/weight/norm.running_mean" in whole
    config = json.loads(Path("whole/config.json").read_text())
    assert (config["model"], config["optimizer"], config["augment"]) == ("net.py:Net", optimizer, True)
    assert config["model_sha256"] == OwnNetwork.read("net.py:Net").sha256


class Killed(BaseException):
    pass


def stop_after_two_metrics():
    """In place of `write_atomically`: the first epoch's checkpoint is there, nothing after it."""
    from lenet_ext.training.files import write_atomically

    written = []

    def write(path: Path, content: bytes) -> None:
        write_atomically(path, content)
        written.append(path.name)
        if written.count("metrics.jsonl") == 2:
            raise Killed

    return write


@pytest.mark.usefixtures("network")
def test_prediction(program: Program) -> None:
    assert program("train", *OPTIONS, "--model", "net.py:mlp", "--no-compare", "--out", "out").code == 0
    assert set(files_in(Path("out"))) == {
        *("checkpoint.safetensors", "config.json", "metrics.jsonl", "curves.png", "confusion.png")
    }
    images = sorted(Path("in/test/dog").iterdir())
    options = ("--checkpoint", "out/checkpoint.safetensors", "--model", "net.py:mlp")
    result = program("predict", *options, *images)
    assert result.code == 0, result.err
    assert [line.split()[2] for line in result.out.splitlines()] == list(map(str, images))
    metadata = load_checkpoint(Path("out/checkpoint.safetensors")).metadata
    assert metadata.own == OwnNetwork("net.py", "mlp", NETWORK)


@pytest.mark.usefixtures("network")
def test_code_in_a_checkpoint_is_not_run_unseen(program: Program) -> None:
    assert program("train", *OPTIONS, "--model", "net.py:Net", "--no-compare", "--out", "out").code == 0
    checkpoint, image = "out/checkpoint.safetensors", "in/test/dog/0.png"
    wanted = (
        f"{checkpoint}: its network is a program, net.py:Net: give --model FILE.py:Name to run that text, or "
        "--trust-model to run the one in the checkpoint"
    )
    Path("moved.py").write_bytes(b"\xef\xbb\xbf" + NETWORK.encode())
    Path("net.py").write_text(NETWORK + "\n")
    for command in (("predict", "--checkpoint", checkpoint, image), ("train", "--resume", "--out", "out")):
        assert program.error(*command) == wanted
        assert "with SHA-256" in program.error(*command, "--model", "net.py:Net")
        assert "with SHA-256" in program.error(*command, "--model", "moved.py:mlp")
        assert program(*command, "--model", "moved.py:Net").code == 0
        assert program(*command, "--trust-model").code == 0
        both = program.error(*command, "--model", "moved.py:Net", "--trust-model")
        assert both == "--trust-model: --model moved.py:Net says what to run"


@pytest.mark.usefixtures("network")
def test_options_of_own_networks_for_a_lenet(program: Program) -> None:
    """They are refused, and the run stays as it is."""
    assert program("train", *OPTIONS, "--no-compare", "--out", "out").code == 0
    before = files_in(Path("out"))
    resume = ("train", "--resume", "--out", "out")
    predict = ("predict", "--checkpoint", "out/checkpoint.safetensors", "in/test/dog/0.png")
    message = program.error(*resume, "--model", "net.py:Net")
    assert message == "--model net.py:Net: the run to resume is of the LeNet; leave it out"
    assert program.error(*predict, "--model", "net.py:Net").endswith("is of the LeNet")
    for command in (resume, predict):
        assert program.error(*command, "--trust-model").endswith("is of the LeNet")
    message = program.error("train", *OPTIONS, "--out", "new", "--trust-model")
    assert message == "--trust-model: is for --resume of a run with a network of your own"
    assert files_in(Path("out")) == before
    assert program(*resume).code == 0


@pytest.mark.usefixtures("network")
def test_a_network_that_the_engine_does_not_take(program: Program) -> None:
    result = program("train", *OPTIONS, "--model", "net.py:Recurrent", "--out", "out")
    assert result.code == 0
    assert result.err.startswith(
        "lenet-ext: net.py:Recurrent: layer by layer, since the fused engine does not take it: fuse: "
    )
    assert {name.split("/")[0] for name in load_file("out/checkpoint.safetensors")} == {"layers", "torch"}
    message = program.error(*("train", *OPTIONS, "--model", "net.py:Recurrent", "--engine", "fused"))
    assert message.startswith('--engine fused: fuse: layer "rnn" (GRU) is recurrent')


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("model", "message"),
    {
        "net.py": "--model net.py: wanted FILE.py:Name",
        "net.py:": "--model net.py:: wanted FILE.py:Name",
        "gone.py:Net": "--model gone.py:Net: gone.py: cannot be read: No such file or directory",
        "in:Net": "in: a folder, wanted a regular file",
        "net.py:Nett": "--model net.py:Nett: no such class or function; the networks there are Net, "
        "Recurrent, Plain",
        "net.py:THREE": "--model net.py:THREE: is a int, wanted a class or a function",
        "net.py:no_module": "--model net.py:no_module: gives a int, wanted a torch.nn.Module",
        "net.py:needs_more": "--model net.py:needs_more: needs an argument depth; known are in_channels, "
        "num_classes, image_size: give others a default",
        "net.py:wrong_shape": "--model net.py:wrong_shape: gives (2, 7) for images of shape (2, 3, 16, 16), "
        "wanted logits (2, 2)",
        "net.py:frozen": "--model net.py:frozen: has no parameter to train",
        "net.py:Plain": "--model net.py:Plain: has no parameter to train",
        "neighbour.py:Net": "--model neighbour.py:Net: line 1: ModuleNotFoundError: No module named "
        "'helper_of_mine'; the file must stand alone",
        "net.py:raises": "--model net.py:raises: line 42: NameError: name 'undefined_name' is not defined",
        "bad.py:Net": "--model bad.py:Net: line 2: SyntaxError: '(' was never closed (bad.py, line 2)",
    }.items(),
)
def test_refusals(program: Program, model: str, message: str) -> None:
    Path("bad.py").write_text("x = 1\ny = (\n")
    Path("neighbour.py").write_text("from helper_of_mine import Block\n")
    assert program.error("train", *OPTIONS, "--model", model, "--out", "out") == message
    assert not Path("out").exists()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("wrong_input", "does not take images of shape (2, 3, 16, 16): "),
        ("double", "RuntimeError: "),
    ],
)
def test_refusals_with_torchs_words(program: Program, model: str, message: str) -> None:
    assert message in program.error("train", *OPTIONS, "--model", f"net.py:{model}", "--out", "out")


def test_text_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="codec can't decode"):
        OwnNetwork.read(f"{tmp_path}/net.py:Net")


@pytest.mark.usefixtures("network")
def test_shared_parameters_and_unused_ones(program: Program) -> None:
    """A parameter under two names is one; one without a gradient has no state of the optimizer."""
    Path("tied.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(2, 2)\n"
        "        self.b.weight, self.out = self.a.weight, nn.Linear(3, 2)\n"
        "    def forward(self, x):\n"
        "        return self.out(self.b(self.a(x.mean((2, 3))).relu()))\n"
    )
    assert program("train", *OPTIONS, "--model", "tied.py:Net", "--optimizer", "adam", "--out", "o").code == 0
    tensors = load_file("o/checkpoint.safetensors")
    for engine in ("fused", "torch"):
        assert torch.equal(tensors[f"{engine}/weight/a.weight"], tensors[f"{engine}/weight/b.weight"])
    result = program("train", "--resume", "--out", "o", "--trust-model")
    assert result.code == 0, result.err


@pytest.mark.usefixtures("network")
def test_what_is_drawn_beside_the_weights_comes_back(program: Program) -> None:
    """A network that keeps random numbers outside of its state: the seed decides on them, too."""
    Path("random.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('mix', torch.randn(3, 5), persistent=False)\n"
        "        self.fc, self.weights = nn.Linear(5, 2), nn.Linear(5, 5)\n"
        "        self.weights.weight = nn.Parameter(self.weights.weight.t())\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.weights((x.mean((2, 3)) @ self.mix).relu()))\n"
    )
    options = (*OPTIONS, "--model", "random.py:Net", "--seed", 3)
    assert program("train", *options, "--out", "o").code == 0
    checkpoint = load_checkpoint(Path("o/checkpoint.safetensors"))
    first, second = (network_in(checkpoint, None, True) for _ in range(2))
    assert torch.equal(first.mix, second.mix)
    first_epoch = checkpoint.metadata.history[0]
    assert first_epoch["train_loss"] == pytest.approx(first_epoch["torch"]["train_loss"], rel=1e-5)


@pytest.mark.usefixtures("network")
def test_a_last_batch_of_one_image(program: Program) -> None:
    """Which a batch norm of one pixel cannot take: that is told before the first step."""
    Path("one.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    pool, norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)\n"
        "    return nn.Sequential(pool, norm, nn.Flatten(), nn.Linear(3, 2))\n"
    )
    options = (
        "train",
        "--data",
        "folder",
        "--root",
        "in",
        "--epochs",
        1,
        "--model",
        "one.py:net",
        "--out",
        "o",
    )
    message = program.error(*options, "--batch-size", 11)
    assert message.startswith(
        "--model one.py:net: --batch-size 11 leaves a batch of one image: does not take"
    )
    assert not Path("o").exists()
    assert program(*options, "--batch-size", 10).code == 0


@pytest.mark.usefixtures("network")
def test_other_outputs_in_training_mode(program: Program) -> None:
    Path("two.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(3, 2)\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x.mean((2, 3)))\n"
        "        return (y, y) if self.training else y\n"
    )
    message = program.error("train", *OPTIONS, "--model", "two.py:Net", "--out", "o")
    assert message.startswith("--model two.py:Net: in training mode gives a tuple for images of shape")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("lost", ["exp_avg_sq", "step"])
def test_a_checkpoint_without_a_part_of_the_optimizers_state(program: Program, lost: str) -> None:
    assert program("train", *OPTIONS, "--no-compare", "--optimizer", "adam", "--out", "o").code == 0
    path = Path("o/checkpoint.safetensors")
    checkpoint = load_checkpoint(path)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if f"/{lost}/" not in name}
    write_checkpoint(path, asdict(checkpoint.metadata), tensors)
    message = program.error("train", "--resume", "--out", "o")
    assert message.endswith("of the optimizer's state, wanted exp_avg and exp_avg_sq and step")


@pytest.mark.usefixtures("network")
def test_folder_of_a_run(program: Program) -> None:
    assert program("train", *OPTIONS, "--no-compare", "--model", "net.py:mlp").code == 0
    assert program("train", *OPTIONS, "--no-compare").code == 0
    assert {path.name for path in Path("runs").iterdir()} == {"folder", "folder-mlp"}
