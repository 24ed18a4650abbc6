"""Small data sets on disk, and the program run in this process."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from lenet_ext.cli import main
from lenet_ext.training.checkpoint import HEADER_ENTRY
from lenet_ext.training.sealed import NO_CHECKSUM


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Program:
    """Calls `lenet-ext` in this process (starting a new one takes seconds, most of them importing torch)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Result:
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["lenet-ext", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return Result(int(exit.value.code or 0), *self.capsys.readouterr())

    def error(self, *arguments: object) -> str:
        """The message of a call that must fail as bad input does: one line on stderr, exit code 2."""
        result = self(*arguments)
        assert result.code == 2, result
        assert result.err.count("\n") == 1
        assert result.err.startswith("lenet-ext: error: ")
        return result.err.removeprefix("lenet-ext: error: ").rstrip("\n")


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of every file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def random_pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_image_folders(root: Path, size: int = 16, classes: Sequence[str] = ("cat", "dog")) -> Path:
    """`root` with six training and three test images a class; a class is told by its brightness."""
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(classes):
            for number in range(count):
                pixels = random_pixels(number, size, size, 3) // 3 + 120 * label
                write_image(root / split / name / f"{number}.png", pixels.astype(np.uint8))
    return root


def write_checkpoint(path: Path, metadata: Mapping[str, object], tensors: dict[str, Tensor]) -> None:
    """As another program would write it, with the right checksum."""
    content = save(tensors, {HEADER_ENTRY: json.dumps({"sha256": NO_CHECKSUM, **metadata})})
    path.write_bytes(content.replace(NO_CHECKSUM.encode(), hashlib.sha256(content).hexdigest().encode(), 1))


def idx_bytes(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(root: Path, name: str = "MNIST") -> Path:
    """`root/name/raw` with 20 training and 10 test images; returns that folder."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for seed, (prefix, count) in enumerate((("train", 20), ("t10k", 10))):
        images = random_pixels(seed, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 10))
    return folder


def write_cifar10(root: Path) -> Path:
    """`root/cifar-10-batches-py` with six batches of ten images; returns that folder."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        batch = {b"data": random_pixels(seed, 10, 3072), b"labels": list(range(10))}
        write_pickle(folder / name, batch)
    write_pickle(
        folder / "batches.meta", {b"label_names": [f"class {number}".encode() for number in range(10)]}
    )
    return folder


def write_pickle(path: Path, content: object) -> None:
    """In the protocol of Python 2, as the original files are."""
    path.write_bytes(pickle.dumps(content, protocol=2))
