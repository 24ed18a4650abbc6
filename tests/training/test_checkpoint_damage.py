"""Checkpoints: every cut and every changed byte is noticed, and a killed writer leaves a whole file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from test_checkpoint import make_run

from lenet_ext.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.errors import InputError
from lenet_ext.training.files import write_atomically
from lenet_ext.training.learner import Learner
from lenet_ext.training.loop import Run
from lenet_ext.training.metadata import FIGURES
from lenet_ext.training.sealed import NO_CHECKSUM


def small_run() -> Run:
    """A run whose learner has 9 numbers and as many momenta, so that a test can go through all bytes."""
    run = make_run()
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    described = {"program": "FrozenNet"}
    learner = SimpleNamespace(name="small", model=model, optimizer=optimizer, description=lambda: described)
    return Run(run.config, run.dataset, run.normalize, [cast(Learner, learner)], run.history)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "checkpoint"
    save_checkpoint(path, small_run(), data_sha256="abc")
    assert len(load_checkpoint(path).tensors) == 4
    return path.read_bytes()


def assert_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    reasons = "truncated|corrupt|a safetensors file, but|format|not a checkpoint"
    with pytest.raises(InputError, match=f"checkpoint: ({reasons})"):
        load_checkpoint(path)


def test_every_truncation(tmp_path: Path, content: bytes) -> None:
    for length in range(len(content)):
        assert_refused(tmp_path / "checkpoint", content[:length])


def test_appended_bytes(tmp_path: Path, content: bytes) -> None:
    for extra in (b"\0", b" ", content):
        assert_refused(tmp_path / "checkpoint", content + extra)


def test_every_byte_changed(tmp_path: Path, content: bytes) -> None:
    """One bit of each byte, in turn, upper case for lower among them, and each byte to any other."""
    generator = random.Random(0)
    for position in range(len(content)):
        for change in {1, 0x20, 0xFF, generator.randrange(1, 256)}:
            damaged = bytearray(content)
            damaged[position] ^= change
            assert_refused(tmp_path / "checkpoint", bytes(damaged))


def test_whitespace_that_means_nothing(tmp_path: Path, content: bytes) -> None:
    """The header is padded with blanks: a tab there leaves everything that is read as it was."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    for position in range(8, header_end):
        if content[position] == ord(" "):
            assert_refused(tmp_path / "checkpoint", content[:position] + b"\t" + content[position + 1 :])


def test_two_bytes_swapped(tmp_path: Path, content: bytes) -> None:
    for position in range(len(content) - 1):
        if content[position] != content[position + 1]:
            swapped = bytearray(content)
            swapped[position : position + 2] = swapped[position : position + 2][::-1]
            assert_refused(tmp_path / "checkpoint", bytes(swapped))


def file_of(header: object, values: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


SOUND: dict[str, object] = {
    "config": asdict(TrainingConfig(data="mnist", compare=False)),
    "network": {"in_channels": 1, "num_classes": 2, "image_size": 16},
    "class_names": ["a", "b"],
    "mean": [30.5],
    "std": [20.5],
    "data_sha256": "abc",
    "epoch": 1,
    "step": 1,
    "history": [{"epoch": 1, **dict.fromkeys(FIGURES, 1)}],
}


def sealed(tensor: object = EMPTY, **changes: object) -> bytes:
    """A checkpoint with the right checksum, some entries changed; None takes one out."""
    entry = SOUND | {"format": FORMAT, "sha256": NO_CHECKSUM} | changes
    entry = {name: value for name, value in entry.items() if value is not None}
    content = file_of({"__metadata__": {"lenet_ext": json.dumps(entry)}, "fused/weight/w": tensor})
    checksum = hashlib.sha256(content).hexdigest()
    return content.replace(NO_CHECKSUM.encode(), checksum.encode(), 1)


HOSTILE = {
    "a lone surrogate for a checksum": file_of(
        {"__metadata__": {"lenet_ext": json.dumps({"sha256": "\ud800", "format": FORMAT})}}
    ),
    "a checksum of another type": file_of(
        {"__metadata__": {"lenet_ext": json.dumps({"sha256": ["x"], "format": FORMAT})}}
    ),
    "a deep entry": file_of({"__metadata__": {"lenet_ext": "[" * 200_000}}),
    "a deep header": file_of(b"[" * 200_000),
    "no metadata": file_of({"__metadata__": None}),
    "an entry of another type": file_of({"__metadata__": {"lenet_ext": 3}}),
    "a header of another type": file_of([1, 2]),
    "more elements than a size can count": sealed(
        tensor={"dtype": "F32", "shape": [2**64 - 1, 0], "data_offsets": [0, 0]}
    ),
    "more elements than torch can count": sealed(
        tensor={"dtype": "F32", "shape": [0, 2**32, 2**32], "data_offsets": [0, 0]}
    ),
    "a setting of another type": sealed(config={"epochs": 2.5}),
    "a setting that is no number": sealed(config={"lr": [1]}),
    "a setting out of range": sealed(config={"batch_size": 2**63}),
    "a rate of 400 digits": sealed(config={"lr": 10**400}),
    "a choice that there is not": sealed(config={"engine": "x"}),
    "an unknown setting": sealed(config={"speed": 3}),
    "settings that are no object": sealed(config=[3]),
    "a network of another type": sealed(network=["in_channels", "num_classes", "image_size"]),
    "a network of fractions": sealed(network={"in_channels": 1.0, "num_classes": 2, "image_size": 16}),
    "two channels": sealed(network={"in_channels": 2, "num_classes": 2, "image_size": 16}),
    "huge images": sealed(network={"in_channels": 1, "num_classes": 2, "image_size": 2**40}),
    "small images": sealed(network={"in_channels": 1, "num_classes": 2, "image_size": -1}),
    "a class without a name": sealed(class_names=["a"]),
    "a name that is a number": sealed(class_names=["a", 3]),
    "a mean that is not finite": sealed(mean=[float("nan")]),
    "a mean too many": sealed(mean=[1, 1]),
    "a mean that is no list": sealed(mean=1),
    "no deviation": sealed(std=[0]),
    "an epoch more than its history": sealed(epoch=2),
    "an epoch after the last": sealed(config={"epochs": 1, "compare": False}, epoch=2, history=[{}, {}]),
    "a step that is no number": sealed(step="1"),
    "a history without figures": sealed(history=[{"epoch": 1}]),
    "a history that begins late": sealed(history=[{"epoch": 2, **dict.fromkeys(FIGURES, 1)}]),
    "no speed": sealed(history=[{"epoch": 1, **dict.fromkeys(FIGURES, 0)}]),
    "a history without the twin's": sealed(config={"compare": True}),
    "a history of texts": sealed(history=["epoch"]),
    "data of another type": sealed(data_sha256=3),
    "a description that is no object": sealed(frozen=["program"]),
    "an entry too few": sealed(config=None),
    "an entry too many": sealed(extra=1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    """Refused, and not for their checksum where it is right."""
    (tmp_path / "sound").write_bytes(sealed())
    assert load_checkpoint(tmp_path / "sound").tensors["fused/weight/w"].shape == (0,)
    assert_refused(tmp_path / "checkpoint", HOSTILE[name])


def _write_for_ever(path: Path, contents: list[bytes]) -> None:
    while True:
        for content in contents:
            write_atomically(path, content)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_writer_leaves_one_of_the_files(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([i]) * 5_000_000 for i in range(3)]
    write_atomically(path, contents[0])
    left_behind = 0
    for number in range(12):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path, contents))
        writer.start()
        time.sleep(0.02 + 0.007 * number)
        writer.kill()
        writer.join()
        left_behind += (tmp_path / ".file.tmp").exists()
        assert path.read_bytes() in contents
    assert left_behind > 0, "no writer was killed while it wrote"
