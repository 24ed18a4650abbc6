"""Images in folders: `train/<class>/*` and `test/<class>/*`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lenet_ext.training.dataset import Dataset, Split, check_dataset
from lenet_ext.training.errors import InputError, os_error_text
from lenet_ext.training.images import open_image, pixels_of

IGNORED = {"Thumbs.db", "desktop.ini"}  # what file managers leave behind, beside names that start with a dot


def read_folder(root: Path) -> Dataset:
    """The images under `root`; the classes are the folder names in sorted order.

    Images are (N, 1, H, W) if every file is gray, (N, 3, H, W) otherwise. Raises `InputError` for a missing
    folder, an empty class, classes that differ between train and test, a file that is no image, and sizes
    that differ.
    """
    class_names = _class_names(root / "train")
    test_names = _class_names(root / "test")
    for name in sorted(set(class_names) ^ set(test_names)):
        present, missing = ("train", "test") if name in class_names else ("test", "train")
        raise InputError(f"{root / missing / name}: no such class folder, but {root / present} has one")
    decoded = {split: _decode_split(root / split, class_names) for split in ("train", "test")}
    _check_sizes([image for images, _ in decoded.values() for image in images])
    channels = max(pixels.shape[0] for images, _ in decoded.values() for _, pixels in images)
    train, test = (_stack(images, labels, channels) for images, labels in decoded.values())
    return check_dataset(Dataset(train, test, class_names), root)


DecodedImage = tuple[Path, np.ndarray]


def _decode_split(folder: Path, class_names: Sequence[str]) -> tuple[list[DecodedImage], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        files = _files(folder / name)
        paths += files
        labels += [label] * len(files)
    # Pillow decodes outside Python's global lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_decode, paths)), labels


def _decode(path: Path) -> DecodedImage:
    return path, pixels_of(open_image(path))


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if len(names) < 2:
        raise InputError(f"{folder}: {len(names)} class folder(s), wanted at least 2")
    return names


def _files(folder: Path) -> list[Path]:
    files = _entries(folder)
    if not files:
        raise InputError(f"{folder}: an empty class, it holds no images")
    for path in files:
        if path.is_dir():
            raise InputError(f"{path}: a folder inside a class folder, which holds images only")
    return files


def _entries(folder: Path) -> list[Path]:
    """The folder's content by name: the order of the images must not depend on the disk."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read as a folder: {os_error_text(error)}") from error
    return [path for path in paths if not path.name.startswith(".") and path.name not in IGNORED]


def _check_sizes(images: Sequence[DecodedImage]) -> None:
    first_path, first = images[0]
    for path, pixels in images:
        if pixels.shape[1:] != first.shape[1:]:
            raise InputError(f"{path}: {_size_text(pixels)}, but {first_path} is {_size_text(first)}")


def _size_text(pixels: np.ndarray) -> str:
    return f"{pixels.shape[2]}x{pixels.shape[1]} pixels"


def _stack(images: Sequence[DecodedImage], labels: Sequence[int], channels: int) -> Split:
    """One tensor of all images; gray ones among coloured ones get three equal channels."""
    height, width = images[0][1].shape[1:]
    stacked = np.empty((len(images), channels, height, width), np.uint8)
    for target, (_, pixels) in zip(stacked, images, strict=True):
        target[:] = pixels
    return Split(torch.from_numpy(stacked), torch.tensor(labels))
