"""The program with bad input: one line, and nothing is harmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_helpers import (
    Program,
    files_in,
    random_pixels,
    write_image,
    write_image_folders,
    write_mnist,
)

from lenet_ext.training import session
from lenet_ext.training.checkpoint import Checkpoint, load_checkpoint
from lenet_ext.training.errors import InputError
from lenet_ext.training.files import locked


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
    "no epochs": (("train", "--epochs", 0), lambda: None, "--epochs 0: wanted 1 to 1000000"),
    "no batch": (("train", "--batch-size", -1), lambda: None, "--batch-size -1: wanted 1 to 2147483647"),
    "321 digits of epochs": (("train", "--epochs", "9" * 321), lambda: None, "9: wanted 1 to 1000000"),
    "5000 digits of epochs": (("train", "--epochs", "9" * 5000), lambda: None, "'--epochs'"),
    "a batch beyond 64 bits": (("train", "--batch-size", 2**63), lambda: None, "wanted 1 to 2147483647"),
    "a rate beyond float32": (("train", "--lr", 1e39), lambda: None, "wanted a positive number, 1.2e-38 to"),
    "a rate that float32 takes for 0": (("train", "--lr", 1e-60), lambda: None, "wanted a positive number"),
    "a seed beyond 64 bits": (("train", "--seed", 2**63), lambda: None, "wanted 0 to 2**63 - 1"),
    "a momentum that is not finite": (("train", "--momentum", "nan"), lambda: None, "wanted at least 0"),
    "weights too large for an output": (
        (*FOLDER, "--lr", 1e38, "--batch-size", 100),
        lambda: None,
        "in epoch 1 (engine fused); the checkpoint of epoch 0 is kept",
    ),
    "learning rate": (("train", "--lr", "nan"), lambda: None, "--lr nan: wanted a positive number"),
    "momentum": (
        ("train", "--momentum", 1),
        lambda: None,
        "--momentum 1.0: wanted at least 0 and less than 1",
    ),
    "momentum of Adam": (
        ("train", "--optimizer", "adam", "--momentum", 0.5),
        lambda: None,
        "--momentum 0.5: --optimizer adam has none",
    ),
    "optimizer": (
        ("train", "--optimizer", "lion"),
        lambda: None,
        "--optimizer lion: wanted one of sgd, adam, adamw",
    ),
    "schedule": (
        ("train", "--schedule", "x"),
        lambda: None,
        "--schedule x: wanted one of cosine, linear, step, constant",
    ),
    "weight decay": (
        ("train", "--weight-decay", -1),
        lambda: None,
        "--weight-decay -1.0: wanted at least 0, at most",
    ),
    "label smoothing": (
        ("train", "--label-smoothing", 1),
        lambda: None,
        "--label-smoothing 1.0: wanted at least 0 and less than 1",
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
        "1 of 18 images are not 16x16, the most frequent size: folder/test/cat/1.png is 17x17; --image",
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
    assert program.error("train", "--out", "out") == "out: Permission denied"


def test_an_error_of_the_system_is_one_line_whatever_the_name(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", "a\nb\x1b")

    monkeypatch.setattr(Path, "exists", forbidden)
    assert program.error("train", "--out", "out") == r"a\nb\x1b: Permission denied"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "--checkpoint", "a"), "'IMAGE' (see lenet-ext predict --help)"),
        (("train", "--zzz", 3), "--zzz (see lenet-ext train --help)"),
        (("nonsense",), "'nonsense' (see lenet-ext --help)"),
    ],
)
def test_wrong_usage_names_the_help_of_the_command(
    program: Program, arguments: tuple[object, ...], message: str
) -> None:
    assert program.error(*arguments).endswith(message)


def test_a_librarys_long_message_is_one_line(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy, for one, fails with a page of advice."""

    def fail(module: str) -> None:
        raise ImportError(f"{module}:\n\n  PLEASE READ\n")

    monkeypatch.setattr("importlib.import_module", fail)
    assert "(typer: PLEASE READ): pip install 'lenet_ext[cli]'" in program.error("info")


def test_an_error_before_the_run_leaves_no_folder(program: Program) -> None:
    Path("there").mkdir()
    for out in ("there", "new/and/deep"):
        program.error("train", "--data", "folder", "--root", "no", "--out", out)
    assert [path.name for path in Path().iterdir()] == ["there"]


def test_the_folder_is_locked_before_its_checkpoint_is_read(
    program: Program, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run could write an older epoch over one that another run wrote meanwhile."""

    def load(path: Path) -> Checkpoint:
        with pytest.raises(InputError, match="run: another run is writing into this folder"), locked(trained):
            pass
        return load_checkpoint(path)

    monkeypatch.setattr(session, "load_checkpoint", load)
    assert program("train", "--resume", "--out", trained).code == 0
