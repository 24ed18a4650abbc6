"""Folders of images: what the reader returns, and that it names what is wrong with bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import (
    random_pixels,
    write_image,
    write_image_folders,
)

from lenet_ext.training.data import load_dataset
from lenet_ext.training.errors import InputError


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


def _remove_folder(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "size": (
        lambda root: write_image(root / "train/dog/3.png", random_pixels(0, 16, 17, 3)),
        r"1 of 18 images are not 16x16, the most frequent size: .*train/dog/3\.png is 17x16",
    ),
    "truncated": (
        lambda root: _truncate(root / "test/dog/2.png"),
        r"test/dog/2\.png: cannot be read as an image",
    ),
    "no image": (
        lambda root: (root / "train/cat/notes.txt").write_text("hello"),
        r"train/cat/notes\.txt: cannot be read as an image: not BMP, GIF",
    ),
    "16 bits": (
        lambda root: write_image(root / "train/cat/0.png", random_pixels(0, 16, 16).astype(np.uint16)),
        r"train/cat/0\.png: more than 8 bits a channel, wanted gray or colour with 8 bits a channel",
    ),
    "empty class": (lambda root: (root / "train/eel").mkdir(), r"test/eel: no such class folder"),
    "empty in both": (
        lambda root: [(root / split / "eel").mkdir() for split in ("train", "test")],
        r"train/eel: an empty class",
    ),
    "missing class": (lambda root: _remove_folder(root / "test/dog"), r"test: 1 class folder"),
    "nested": (
        lambda root: (root / "test/cat/more").mkdir(),
        r"test/cat/more: a folder, wanted a regular file",
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


@pytest.mark.parametrize(
    ("shape", "message"), [((15, 15, 3), "16x16 or more; --image-size N"), ((16, 20, 3), "square")]
)
def test_images_the_lenet_cannot_take(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    for path in write_image_folders(tmp_path).rglob("*.png"):
        write_image(path, random_pixels(0, *shape))
    with pytest.raises(InputError, match=message):
        load_dataset("folder", tmp_path)
