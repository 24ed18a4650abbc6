"""The program: what its commands print and write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import python
from safetensors.torch import load_file
from training_helpers import (
    Program,
    files_in,
    write_cifar10,
    write_image,
    write_image_folders,
    write_mnist,
)

from lenet_ext.training.config import new_config

OUTPUTS = {
    "checkpoint.safetensors",
    "config.json",
    "metrics.jsonl",
    "curves.png",
    "filters.png",
    "confusion.png",
}


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
    assert "images/s, median epoch" in result.out
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
        *(("engine", "layers", "fused"), ("data", "digits", "folder"), ("optimizer", "adam", "sgd")),
        *(("schedule", "step", "cosine"), ("weight-decay", 0.1, 0.0), ("label-smoothing", 0.1, 0.0)),
    ],
)
def test_resume_with_another_setting(
    program: Program, trained: Path, option: str, value: object, stored: object
) -> None:
    before = files_in(trained)
    message = program.error("train", "--resume", "--out", trained, f"--{option}", value)
    assert message.startswith(f"--{option} {value}: the run to resume was started with --{option} {stored}; ")
    assert files_in(trained) == before


def test_resume_without_and_with_comparison(program: Program, trained: Path) -> None:
    """A flag is named as it is typed."""
    message = program.error("train", "--resume", "--out", trained, "--compare")
    assert message.startswith(
        "--compare: the run to resume was started with --no-compare; leave --compare out"
    )


def test_resume_where_there_is_nothing_to_resume(program: Program) -> None:
    write_image_folders(Path("data"))
    before = files_in(Path())
    for arguments, folder in (([], "runs/digits"), (["--data", "folder", "--out", "out"], "out")):
        message = program.error("train", "--resume", *arguments)
        assert message.startswith(f"--resume: {folder} holds no checkpoint.safetensors to go on from; ")
        assert "--resume=auto" in message
    assert files_in(Path()) == before
    assert not Path("out").exists()


def test_resume_auto_starts_or_goes_on(program: Program) -> None:
    write_image_folders(Path("data"))
    for done in ("0 of 2", "2 of 2"):
        result = program("train", "--data", "folder", "--epochs", 2, "--no-compare", "--resume=auto")
        assert result.code == 0, result.err
        assert f"{done} epochs done" in result.out
    assert program.error("train", "--resume=often") == "--resume=often: wanted --resume or --resume=auto"


def test_resume_takes_settings_from_the_checkpoint(program: Program, trained: Path) -> None:
    result = program("train", "--resume", "--out", trained, "--epochs", 10)
    assert result.code == 0, result.err
    assert "10 of 10 epochs done" in result.out


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


# --- info, and the program itself


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
    assert python("-c", f"import sys, lenet_ext; print({extras} & sys.modules.keys())").stdout == "set()\n"
    block = (
        "import sys, runpy; sys.modules['typer'] = None; runpy.run_module('lenet_ext', run_name='__main__')"
    )
    result = python("-c", block)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'lenet_ext[cli]'" in result.stderr
    working = python("-m", "lenet_ext", "info", "--json", cwd=tmp_path)
    assert working.returncode == 0, working.stderr
    assert json.loads(working.stdout)["python"]
