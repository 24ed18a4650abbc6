"""The readers of IDX and CIFAR-10 files: what they return, and that they name what is wrong with bad ones."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import (
    idx_bytes,
    random_pixels,
    write_cifar10,
    write_mnist,
    write_pickle,
)

from lenet_ext.training.data import load_dataset
from lenet_ext.training.errors import InputError
from lenet_ext.training.idx import read_idx, read_idx_pair

REAL_DATA = os.environ.get("LENET_EXT_DATA")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="LENET_EXT_DATA is not set")


# --- IDX


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_data_set(tmp_path: Path, name: str, folder: str, gzipped: bool) -> None:
    raw = write_mnist(tmp_path, folder)
    if gzipped:
        for path in list(raw.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    dataset = load_dataset(name, tmp_path)
    assert torch.equal(dataset.train.images, torch.from_numpy(random_pixels(0, 20, 28, 28)).unsqueeze(1))
    assert dataset.test.labels.tolist() == list(range(10))
    assert len(dataset.class_names) == 10


IDX_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "starts with the bytes , wanted 00000803"),
    "bad magic": (lambda content: b"\x1f" + content[1:], "starts with the bytes 1f000803"),
    "other type": (lambda content: content[:2] + b"\x0d" + content[3:], "starts with the bytes 00000d03"),
    "short header": (lambda content: content[:9], "truncated within the header"),
    "truncated": (
        lambda content: content[:-1],
        "truncated: 15679 bytes of values, the header promises 15680",
    ),
    "overlong": (lambda content: content + b"\0", "more than the 15680 bytes"),
    "huge header": (lambda content: content[:4] + b"\xff" * 12 + content[16:], "truncated: 15680 bytes"),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_damaged_idx(tmp_path: Path, damage: str) -> None:
    change, message = IDX_DAMAGE[damage]
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        load_dataset("mnist", tmp_path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("cut", [5, 40, -4])
def test_truncated_gzip(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(random_pixels(0, 3, 5, 5)))[:cut])
    with pytest.raises(InputError, match=r"images\.gz: truncated or corrupt gzip file"):
        read_idx(path, dimensions=3)


def test_values_for_which_there_is_no_memory(tmp_path: Path) -> None:
    """A gzip file of a few bytes can hold any number of values, and a file may be mostly holes."""
    path = tmp_path / "images.gz"
    path.write_bytes(
        gzip.compress(idx_bytes(random_pixels(0, 3, 5, 5))[:4] + struct.pack(">3I", *[2**14] * 3))
    )
    with pytest.raises(InputError, match=r"images\.gz: reading it needs about 4,096\.0 GiB of memory, but"):
        read_idx(path, dimensions=3)
    path = write_cifar10(tmp_path) / "data_batch_3"
    os.truncate(path, 2**42)
    with pytest.raises(InputError, match=r"data_batch_3: reading it needs about 4,096\.0 GiB of memory, but"):
        load_dataset("cifar10", tmp_path)


def test_gzip_with_a_flipped_bit(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(idx_bytes(random_pixels(0, 3, 5, 5)), compresslevel=0))
    content[-20] ^= 1  # in the stored values, which only gzip's checksum protects
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.gz: truncated or corrupt gzip file: CRC"):
        read_idx(path, dimensions=3)


def test_idx_counts_and_labels(tmp_path: Path) -> None:
    path = write_mnist(tmp_path) / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.arange(9)))
    with pytest.raises(InputError, match="9 labels, but 10 images in t10k-images"):
        load_dataset("mnist", tmp_path)
    path.write_bytes(idx_bytes(np.arange(1, 11)))
    with pytest.raises(InputError, match="label 10 at index 9 is out of range, wanted 0 to 9"):
        load_dataset("mnist", tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte: no such file \(nor .*\.gz\)"):
        load_dataset("mnist", tmp_path)


@needs_real_data
def test_real_mnist_test_files() -> None:
    split = read_idx_pair(Path(str(REAL_DATA)) / "MNIST/raw", "t10k", num_classes=10)
    assert split.images.shape == (10000, 1, 28, 28)
    assert split.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The mean of MNIST's test images, 0.1325, is well known.
    assert split.images.double().mean() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_idx_header_is_big_endian(tmp_path: Path) -> None:
    """Against bytes written by hand, not by the helper above."""
    path = tmp_path / "labels"
    path.write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 3) + b"\x05\x00\x04")
    assert read_idx(path, dimensions=1).tolist() == [5, 0, 4]


# --- CIFAR-10


def test_cifar10(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    dataset = load_dataset("cifar10", tmp_path)
    assert dataset.train.images.shape == (50, 3, 32, 32)
    expected = random_pixels(1, 10, 3072).reshape(10, 3, 32, 32)
    assert np.array_equal(dataset.train.images[10:20].numpy(), expected)
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.class_names[3] == "class 3"


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


def test_cifar10_pickles_run_no_code(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path) / "data_batch_2"
    victim = tmp_path / "made by the pickle"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({b"data": Malicious(victim)}, protocol=protocol))
        with pytest.raises(InputError, match=r"data_batch_2: corrupt.*mkdir, neither array nor plain data"):
            load_dataset("cifar10", tmp_path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({b"labels": [0]}, "has no entry 'data'"),
        ({b"data": random_pixels(0, 2, 3071), b"labels": [0, 1]}, "not a uint8 array with rows of 3072"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, "not a uint8 array"),
        ({b"data": random_pixels(0, 2, 3072), b"labels": [0]}, "1 labels, but 2 images"),
        ({b"data": random_pixels(0, 2, 3072), b"labels": [0, 10]}, "label 10 at index 1 is out of range"),
        ({b"data": random_pixels(0, 2, 3072), b"labels": [0, -1]}, "label -1 at index 1 is out of range"),
        ({b"data": random_pixels(0, 2, 3072), b"labels": [0, 10**30]}, "label 10{30} at index 1 is out"),
        ({b"data": random_pixels(0, 2, 3072), b"labels": [0, "1"]}, "not a list of integers"),
    ],
)
def test_wrong_cifar10_batch(tmp_path: Path, content: object, message: str) -> None:
    path = write_cifar10(tmp_path) / "data_batch_4"
    write_pickle(path, content)
    with pytest.raises(InputError, match=message) as error:
        load_dataset("cifar10", tmp_path)
    assert str(error.value).startswith(str(path))


def test_truncated_or_missing_cifar10_batch(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path) / "test_batch"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="test_batch: corrupt, or not a CIFAR-10 batch"):
            load_dataset("cifar10", tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="test_batch: cannot be read: No such file"):
        load_dataset("cifar10", tmp_path)
