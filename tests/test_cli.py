"""The program: what its commands print and write, and that bad input is one line and harms nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_helpers import (
    Program,
    files_in,
    python,
    random_pixels,
    write_cifar10,
    write_image,
    write_image_folders,
    write_mnist,
)

from lenet_ext import benchmark
from lenet_ext.check import DTYPES, Comparison, rounding_limit
from lenet_ext.training.config import new_config

OUTPUTS = {
    "checkpoint.safetensors",
    "config.json",
    "metrics.jsonl",
    "curves.png",
    "filters.png",
    "confusion.png",
}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return Program(monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, two classes told by their brightness, and `run`, a finished run on them."""
    folder = tmp_path_factory.mktemp("finished")
    write_image_folders(folder / "data")
    options = ["--data", "folder", "--epochs", "10", "--batch-size", "3", "--no-compare", "--out", "run"]
    result = python(["-m", "lenet_ext", "train", *options], cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def trained(program: Program, finished_run: Path) -> Path:
    """The run's folder, in a copy that the test may spoil."""
    shutil.copytree(finished_run, ".", dirs_exist_ok=True)
    return Path("run")


# --- train


@pytest.mark.parametrize("data", ["folder", "mnist", "fashion-mnist", "cifar10"])
def test_train_writes_all_files(program: Program, data: str) -> None:
    {
        "folder": write_image_folders,
        "mnist": write_mnist,
        "fashion-mnist": lambda root: write_mnist(root, "FashionMNIST"),
        "cifar10": write_cifar10,
    }[data](Path("in"))
    result = program(
        "train", "--data", data, "--root", "in", "--epochs", 3, "--out", "out", "--device", "cpu"
    )
    assert result.code == 0, result.err
    assert "native torch" in result.out
    assert "images/s in training" in result.out
    assert {path.name for path in Path("out").iterdir()} == OUTPUTS
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 3
    config = json.loads(Path("out/config.json").read_text())
    assert (config["data"], config["epochs"], config["lr"]) == (data, 3, 0.02)
    assert len(config["mean"]) == len(config["std"]) == config["network"]["in_channels"]
    for name in ("curves", "filters", "confusion"):
        with Image.open(f"out/{name}.png") as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_train_without_comparison(program: Program) -> None:
    write_image_folders(Path("data"))
    result = program("train", "--data", "folder", "--epochs", 1, "--engine", "torch", "--out", "out")
    assert result.code == 0, result.err
    assert "lenet_ext │" not in result.out
    record = json.loads(Path("out/metrics.jsonl").read_text())
    assert record.keys() == {"epoch", "train_loss", "test_accuracy", "images_per_second", "seconds"}
    assert all(name.startswith("torch/") for name in load_file("out/checkpoint.safetensors"))


def test_existing_run_is_not_overwritten(program: Program, trained: Path) -> None:
    before = files_in(trained)
    message = program.error("train", "--data", "folder", "--out", trained)
    assert message == "run/checkpoint.safetensors: exists already; use --resume to go on, or another --out"
    assert files_in(trained) == before


def test_files_of_others_are_not_overwritten(program: Program) -> None:
    Path("config.json").write_text("mine")
    message = program.error("train", "--out", ".")
    assert message == "config.json: exists already, without a checkpoint; use another --out"
    assert files_in(Path()) == {"config.json": b"mine"}


@pytest.mark.parametrize(
    ("option", "value", "stored"),
    [
        *(("epochs", 9, 10), ("batch-size", 9, 3), ("lr", 0.5, 0.02), ("momentum", 0.5, 0.9), ("seed", 9, 0)),
        *(("engine", "layers", "fused"), ("data", "digits", "folder")),
    ],
)
def test_resume_with_another_setting(
    program: Program, trained: Path, option: str, value: object, stored: object
) -> None:
    before = files_in(trained)
    message = program.error("train", "--resume", "--out", trained, f"--{option}", value)
    assert message.startswith(f"--{option} {value}: the run to resume was started with {stored}; ")
    assert files_in(trained) == before


def test_resume_takes_settings_from_the_checkpoint(program: Program, trained: Path) -> None:
    result = program("train", "--resume", "--out", trained, "--epochs", 10)
    assert result.code == 0, result.err
    assert "10 of 10 epochs done" in result.out


# --- bad input: a call, how to break what it reads, and the message


def spoil(path: str, content: bytes = b"spoiled") -> Callable[[], object]:
    return lambda: Path(path).write_bytes(content)


FOLDER = ("train", "--data", "folder", "--root", "folder", "--epochs", 1, "--no-compare")
MNIST = ("train", "--data", "mnist", "--root", "root", "--epochs", 1, "--no-compare")
PREDICT = ("predict", "--checkpoint", "run/checkpoint.safetensors")

BAD_INPUT: dict[str, tuple[tuple[object, ...], Callable[[], object], str]] = {
    "unknown data": (
        ("train", "--data", "imagenet"),
        lambda: None,
        "--data imagenet: wanted one of digits, mnist",
    ),
    "unknown engine": (
        ("train", "--engine", "jax"),
        lambda: None,
        "--engine jax: wanted one of fused, layers, torch",
    ),
    "unknown device": (
        ("train", "--device", "tpu"),
        lambda: None,
        "--device tpu: wanted one of auto, cpu, cuda",
    ),
    "no epochs": (("train", "--epochs", 0), lambda: None, "--epochs 0: wanted 1 or more"),
    "no batch": (("train", "--batch-size", -1), lambda: None, "--batch-size -1: wanted 1 or more"),
    "learning rate": (("train", "--lr", "nan"), lambda: None, "--lr nan: wanted a positive number"),
    "momentum": (
        ("train", "--momentum", 1),
        lambda: None,
        "--momentum 1.0: wanted at least 0 and less than 1",
    ),
    "seed": (("train", "--seed", -1), lambda: None, "--seed -1: wanted 0 to 2**63 - 1"),
    "self-comparison": (("train", "--engine", "torch", "--compare"), lambda: None, "use --no-compare"),
    "not a number": (("train", "--epochs", "many"), lambda: None, "'--epochs'"),
    "unknown option": (("train", "--speed", 3), lambda: None, "--speed"),
    "unknown command": (("fly",), lambda: None, "fly"),
    "missing folder": (
        ("train", "--data", "folder", "--root", "no"),
        lambda: None,
        "no/train: cannot be read as a",
    ),
    "corrupt image": (
        FOLDER,
        spoil("folder/train/cat/1.png"),
        "folder/train/cat/1.png: cannot be read as an image",
    ),
    "sizes differ": (
        FOLDER,
        lambda: write_image(Path("folder/test/cat/1.png"), random_pixels(0, 17, 17)),
        "folder/test/cat/1.png: 17x17 pixels, but folder/train/cat/0.png is 16x16 pixels",
    ),
    "empty class": (
        FOLDER,
        lambda: [Path("folder", split, "eel").mkdir() for split in ("train", "test")],
        "folder/train/eel: an empty class",
    ),
    "missing IDX": (
        MNIST,
        Path("root/MNIST/raw/train-images-idx3-ubyte").unlink,
        "train-images-idx3-ubyte: no such",
    ),
    "bad magic": (
        MNIST,
        spoil("root/MNIST/raw/train-images-idx3-ubyte"),
        "train-images-idx3-ubyte: starts with",
    ),
    "truncated IDX": (
        MNIST,
        spoil("root/MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x0a123"),
        "t10k-labels-idx1-ubyte: truncated: 3 bytes of values, the header promises 10",
    ),
    "counts differ": (
        MNIST,
        spoil("root/MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x01\x03"),
        "t10k-labels-idx1-ubyte: 1 labels, but 10 images",
    ),
    "label out of range": (
        MNIST,
        spoil("root/MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x0a" + bytes(range(1, 11))),
        "t10k-labels-idx1-ubyte: label 10 at index 9 is out of range",
    ),
    "diverging": (
        (*FOLDER, "--lr", 1e30, "--batch-size", 3),
        lambda: None,
        "in epoch 1 (engine fused); the checkpoint of epoch 0",
    ),
    "out is a file": ((*FOLDER, "--out", "file"), spoil("file"), "file"),
    "out below a file": (
        (*FOLDER, "--out", "file/out"),
        spoil("file"),
        "file/out: cannot be made a folder: Not a",
    ),
    "missing checkpoint": (
        ("predict", "--checkpoint", "no", "x.png"),
        lambda: None,
        "no: cannot be read: No such",
    ),
    "no checkpoint given": (("predict", "x.png"), lambda: None, "--checkpoint"),
    "corrupt checkpoint": (
        (*PREDICT, "folder/test/cat/0.png"),
        spoil("run/checkpoint.safetensors"),
        "run/checkpoint.safetensors: truncated or corrupt, or not a safetensors file",
    ),
    "resume a corrupt checkpoint": (
        ("train", "--resume", "--out", "run"),
        spoil("run/checkpoint.safetensors"),
        "run/checkpoint.safetensors: truncated or corrupt, or not a safetensors file",
    ),
    "predict a missing image": ((*PREDICT, "x.png"), lambda: None, "x.png: no such file"),
    "predict no image": (
        (*PREDICT, "data/notes.txt"),
        spoil("data/notes.txt"),
        "data/notes.txt: cannot be read as an",
    ),
    "check on an unknown device": (("check", "--device", "tpu"), lambda: None, "--device tpu: wanted one of"),
}


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_harms_nothing(program: Program, case: str) -> None:
    arguments, spoil, message = BAD_INPUT[case]
    write_image_folders(Path("folder"))
    write_mnist(Path("root"))
    spoil()
    before = files_in(Path())
    assert message in program.error(*arguments)
    after = files_in(Path())
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize(
    ("options", "engine", "device"),
    [
        ({}, "fused", "cuda"),
        ({"device": "cpu"}, "fused", "cpu"),
        ({"engine": "layers"}, "layers", "cuda"),
        ({"engine": "torch", "device": "cuda"}, "torch", "cuda"),
    ],
)
@pytest.mark.parametrize("built", [True, False])
def test_engine_and_device_where_there_is_cuda(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], engine: str, device: str, built: bool
) -> None:
    """Where the package was built without CUDA, it is taken on request only."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lenet_ext.training.config.build_info", lambda: {"cuda": built})
    config = new_config(options)
    expected = device if built or "device" in options else "cpu"
    assert (config.engine, config.device) == (engine, expected)


@pytest.mark.parametrize("engine", ["layers", "torch"])
def test_other_engines_train_and_predict(program: Program, engine: str) -> None:
    write_image_folders(Path("data"))
    options = ("--data", "folder", "--epochs", 1, "--no-compare", "--engine", engine, "--out", "out")
    assert program("train", *options).code == 0
    names = load_file("out/checkpoint.safetensors").keys()
    assert all(name.startswith(f"{engine}/") for name in names)
    result = program("predict", "--checkpoint", "out/checkpoint.safetensors", "data/test/cat/0.png")
    assert result.code == 0, result.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["train", "check"])
def test_cuda_where_there_is_none(program: Program, command: str) -> None:
    message = program.error(command, "--device", "cuda")
    assert message == "--device cuda: torch finds no CUDA device here; use --device cpu"
    assert not files_in(Path())


def test_folder_that_cannot_be_written(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions don't stop root, who may be running this, so the answer of the system is put on."""
    write_image_folders(Path("data"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert program.error("train", "--data", "folder", "--out", "out") == "out: cannot be written into"


def test_folder_that_may_not_be_looked_into(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", forbidden)
    assert program.error("train", "--out", "out") == "out/checkpoint.safetensors: Permission denied"


# --- predict


def test_predict(program: Program, trained: Path) -> None:
    """Two images that nobody can mix up, one of them gray and of another size."""
    checkpoint = trained / "checkpoint.safetensors"
    dark, bright = Path("data/test/cat/0.png"), Path("bright photo.png")
    write_image(bright, np.full((40, 30), 200, np.uint8))
    result = program("predict", "--checkpoint", checkpoint, dark, bright)
    assert result.code == 0, result.err
    lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert [(name, path) for name, _, path in lines] == [("cat", str(dark)), ("dog", str(bright))]
    assert all(0.5 <= float(probability) <= 1 for _, probability, _ in lines)


# --- check


def test_check_passes(program: Program) -> None:
    result = program("check")
    assert result.code == 0, result.out
    for word in ("conv2d", "max_pool2d", "linear", "relu", "LeNet", "backward", "bfloat16"):
        assert word in result.out
    assert "112 of 112 comparisons agree" in result.out


def test_check_notices_a_mismatch(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU whose values are right and whose gradient is half a percent off."""

    class Skewed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, input: torch.Tensor) -> torch.Tensor:
            return input.relu()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 1.005

    monkeypatch.setattr("lenet_ext.functional.relu", Skewed.apply)
    result = program("check")
    assert result.code == 1
    assert "relu backward torch.float32: error" in result.out
    assert "relu forward" not in result.out


def test_check_reports_a_layer_that_fails(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr("lenet_ext.functional.linear", broken)
    result = program("check")
    assert result.code == 1
    assert "linear 84 to 10 forward torch.float32: no kernel for this" in result.out


def test_limits_of_check_are_a_few_rounding_units() -> None:
    """Wide enough for sums of 5,000 terms, and far below any real mistake."""
    limits = {dtype: rounding_limit(dtype, 5000) for dtype in DTYPES}
    assert limits[torch.float64] < 2e-14
    assert limits[torch.float32] < 1e-5
    assert limits[torch.float16] < 0.0025
    assert limits[torch.bfloat16] < 0.02


def test_nan_is_a_mismatch() -> None:
    comparison = Comparison("relu", "forward", torch.float32, float("nan"), 0.0, limit=1e-6)
    assert not comparison.passed
    assert replace(comparison, error=1e-7).passed


# --- bench, info, and the program itself


def test_bench_hands_its_options_on(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, Path | None, tuple[str, ...]]] = []
    monkeypatch.setattr(
        benchmark, "run_benchmarks", lambda quick, out, only: calls.append((quick, out, only))
    )
    assert program("bench", "--quick", "--out", "charts").code == 0
    assert program("bench", "--only", "peers", "--only", "relu").code == 0
    assert calls == [(True, Path("charts"), benchmark.NAMES), (False, None, ("peers", "relu"))]
    Path("file").write_text("")
    assert program.error("bench", "--out", "file/charts").startswith("file/charts: cannot be made a folder")
    assert program.error("bench", "--only", "lent").startswith(
        "--only lent: no such report, there are lenet,"
    )


def test_info(program: Program) -> None:
    facts = json.loads(program("info", "--json").out)
    assert facts["torch"]["version"] == torch.__version__
    assert facts["lenet_ext"]
    assert facts["machine"]["cpu"]
    table = program("info").out
    assert f"torch.version{' ' * 2}" in table
    assert torch.__version__ in table


def test_help(program: Program) -> None:
    for arguments in ([], ["--help"], ["train", "--help"]):
        result = program(*arguments)
        assert result.code == 0
        assert "Usage: lenet-ext" in result.out


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("typer", ["info"], "cli"),
        ("rich", ["info"], "cli"),
        ("safetensors", ["train"], "cli"),
        ("sklearn", ["train"], "data"),
        ("PIL", ["predict", "--checkpoint", "c", "i"], "data"),
        ("matplotlib", ["train"], "plot"),
    ],
)
def test_missing_extra(
    program: Program, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = program.error(*arguments)
    assert message.startswith(f"this command needs the package {module} ")
    assert message.endswith(f"pip install 'lenet_ext[{extra}]'")


def test_package_and_module_in_their_own_process(tmp_path: Path) -> None:
    """`import lenet_ext` loads nothing of the extras; without typer the program prints one line."""
    extras = "{'typer', 'rich', 'safetensors', 'PIL', 'sklearn', 'matplotlib'}"
    assert python(["-c", f"import sys, lenet_ext; print({extras} & sys.modules.keys())"]).stdout == "set()\n"
    block = (
        "import sys, runpy; sys.modules['typer'] = None; runpy.run_module('lenet_ext', run_name='__main__')"
    )
    result = python(["-c", block])
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'lenet_ext[cli]'" in result.stderr
    working = python(["-m", "lenet_ext", "info", "--json"], cwd=tmp_path)
    assert working.returncode == 0, working.stderr
    assert json.loads(working.stdout)["python"]
