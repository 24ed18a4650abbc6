"""The data readers: what they return for good files, and that they name what is wrong with bad ones."""

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
from PIL import Image
from training_helpers import (
    idx_bytes,
    random_pixels,
    write_cifar10,
    write_image,
    write_image_folders,
    write_mnist,
    write_pickle,
)

from lenet_ext.training.data import Normalization, load_dataset, shuffled_batches
from lenet_ext.training.dataset import Dataset, Split
from lenet_ext.training.errors import InputError
from lenet_ext.training.idx import read_idx, read_idx_pair

REAL_DATA = os.environ.get("LENET_EXT_DATA")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="LENET_EXT_DATA is not set")


# --- digits


def test_digits_are_split_by_class_without_overlap() -> None:
    digits = load_dataset("digits", Path())
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.images.shape[1:] == (1, 32, 32)
    shares = digits.test.labels.bincount() / (digits.test.labels.bincount() + digits.train.labels.bincount())
    torch.testing.assert_close(shares, torch.full((10,), 0.2), atol=0.01, rtol=0)


def test_digits_are_upscaled_bilinearly() -> None:
    """By hand: at factor 4 the weights between two pixels are 7/8 and 1/8, then 5/8 and 3/8, and so on."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    first = torch.nonzero(torch.from_numpy(raw.target) == 0).flatten()[
        0
    ]  # the first test image: digit 0's first
    row = raw.images[first][0]
    digits = load_dataset("digits", Path())
    image = digits.test.images[torch.nonzero(digits.test.labels == 0).flatten()[0], 0]
    assert image[0, 0] == round(row[0] * 255 / 16)
    expected = [row[2] * (8 - k) / 8 + row[3] * k / 8 for k in (1, 3, 5, 7)]
    assert image[0, 10:14].tolist() == [round(value * 255 / 16) for value in expected]


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


# --- folders of images


def test_folder(tmp_path: Path) -> None:
    write_image_folders(tmp_path, classes=("zebra", "ant"))
    (tmp_path / "train/ant/.DS_Store").write_text("left by a file manager")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.class_names == ["ant", "zebra"]
    assert dataset.train.images.shape == (12, 3, 16, 16)
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    with Image.open(tmp_path / "test/zebra/1.png") as image:
        assert np.array_equal(dataset.test.images[4].permute(1, 2, 0).numpy(), np.asarray(image))


def test_gray_and_mixed_folders(tmp_path: Path) -> None:
    write_image_folders(tmp_path)
    for path in tmp_path.rglob("*.png"):
        write_image(path, random_pixels(0, 16, 16))
    assert load_dataset("folder", tmp_path).train.images.shape == (12, 1, 16, 16)
    write_image(tmp_path / "test/cat/0.png", random_pixels(1, 16, 16, 3))
    images = load_dataset("folder", tmp_path).train.images
    assert images.shape == (12, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 2])


def test_photograph_is_turned_upright(tmp_path: Path) -> None:
    from lenet_ext.training.images import open_image, pixels_of

    pixels = random_pixels(0, 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(pixels_of(open_image(tmp_path / "photo.png"))[0], pixels[::-1, ::-1])


def _remove_folder(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "size": (
        lambda root: write_image(root / "train/dog/3.png", random_pixels(0, 16, 17, 3)),
        r"train/dog/3\.png: 17x16 pixels, but .*train/cat/0\.png is 16x16",
    ),
    "truncated": (
        lambda root: _truncate(root / "test/dog/2.png"),
        r"test/dog/2\.png: cannot be read as an image",
    ),
    "no image": (
        lambda root: (root / "train/cat/notes.txt").write_text("hello"),
        r"train/cat/notes\.txt: cannot be read as an image: not an image",
    ),
    "16 bits": (
        lambda root: write_image(root / "train/cat/0.png", random_pixels(0, 16, 16).astype(np.uint16)),
        r"train/cat/0\.png: pixel mode I;16, wanted gray or colour with 8 bits a channel",
    ),
    "empty class": (lambda root: (root / "train/eel").mkdir(), r"test/eel: no such class folder"),
    "empty in both": (
        lambda root: [(root / split / "eel").mkdir() for split in ("train", "test")],
        r"train/eel: an empty class",
    ),
    "missing class": (lambda root: _remove_folder(root / "test/dog"), r"test: 1 class folder"),
    "nested": (
        lambda root: (root / "test/cat/more").mkdir(),
        r"test/cat/more: a folder inside a class folder",
    ),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGE)
def test_damaged_folder(tmp_path: Path, damage: str) -> None:
    change, message = FOLDER_DAMAGE[damage]
    change(write_image_folders(tmp_path))
    with pytest.raises(InputError, match=message):
        load_dataset("folder", tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/train: cannot be read as a folder: No such file"):
        load_dataset("folder", tmp_path / "nowhere")


@pytest.mark.parametrize(("shape", "message"), [((15, 15, 3), "takes 16x16 up"), ((16, 20, 3), "square")])
def test_images_the_lenet_cannot_take(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    for path in write_image_folders(tmp_path).rglob("*.png"):
        write_image(path, random_pixels(0, *shape))
    with pytest.raises(InputError, match=message):
        load_dataset("folder", tmp_path)


# --- what is done with the data


def test_normalization() -> None:
    images = torch.from_numpy(random_pixels(0, 50, 3, 9, 7))
    normalize = Normalization.of(images)
    assert normalize.mean == pytest.approx(images.double().mean(dim=(0, 2, 3)).tolist())
    assert normalize.std == pytest.approx(images.double().std(dim=(0, 2, 3), correction=0).tolist())
    normalized = normalize(images)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_normalization_of_a_constant_channel_is_finite() -> None:
    images = torch.full((4, 1, 5, 5), 7, dtype=torch.uint8)
    assert torch.equal(Normalization.of(images)(images), torch.zeros(4, 1, 5, 5))


def test_batches_hold_every_image_once_and_only_seed_and_epoch_decide() -> None:
    batches = shuffled_batches(103, 10, seed=3, epoch=5)
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    order = torch.cat(batches)
    assert order.sort().values.tolist() == list(range(103))
    torch.rand(1)  # the global random state has no say
    assert torch.equal(order, torch.cat(shuffled_batches(103, 10, seed=3, epoch=5)))
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        assert not torch.equal(order, torch.cat(shuffled_batches(103, 10, seed, epoch)))


def test_fingerprint_sees_every_change() -> None:
    def fingerprint(pixel: int = 0, label: int = 0, name: str = "a") -> str:
        images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
        images[1, 0, 3, 4] = pixel
        split = Split(images, torch.tensor([label, 1]))
        return Dataset(split, split, [name, "b"]).fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(pixel=1), fingerprint(label=1), fingerprint(name="c")}) == 4


def test_idx_header_is_big_endian(tmp_path: Path) -> None:
    """Against bytes written by hand, not by the helper above."""
    path = tmp_path / "labels"
    path.write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 3) + b"\x05\x00\x04")
    assert read_idx(path, dimensions=1).tolist() == [5, 0, 4]
