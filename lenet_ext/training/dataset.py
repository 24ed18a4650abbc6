"""What every reader returns: a labelled image set that lies in memory as tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lenet_ext.models import SMALLEST_IMAGE
from lenet_ext.training.errors import InputError, printable


@dataclass(frozen=True)
class Split:
    """`images` (N, C, H, W) uint8 and `labels` (N,) int64, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one size, and the names of the classes that the labels number."""

    train: Split
    test: Split
    class_names: list[str]

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[2]

    def fingerprint(self) -> str:
        """SHA-256 over images, labels and class names: tells whether two runs saw the same data."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in (self.train, self.test):
            for tensor in (split.images, split.labels):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.contiguous().numpy().data.cast("B"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Outline:
    """What is known of a data set before its pixels are read: numbers of images, and what a `Dataset` has."""

    source: str  # for messages
    train: int
    test: int
    class_names: list[str]
    channels: int
    image_size: int
    remarks: list[str] = field(default_factory=list)  # lines on what is done with the files
    loaded: bool = False  # whether the pixels lie in memory already

    @classmethod
    def of(cls, dataset: Dataset, source: str) -> Outline:
        """That of a data set that has been read."""
        train, test = len(dataset.train), len(dataset.test)
        return cls(
            source, train, test, dataset.class_names, dataset.channels, dataset.image_size, loaded=True
        )


def check_dataset(dataset: Dataset, source: Path | str) -> Dataset:
    """Return `dataset` if a LeNet can be trained on it, else raise an `InputError` naming `source`."""
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        if len(split) == 0:
            raise InputError(f"{source}: the {name} set holds no images")
        check_labels(split.labels.tolist(), len(dataset.class_names), f"{source}: the {name} set")
    if dataset.train.images.shape[1:] != dataset.test.images.shape[1:]:
        raise InputError(
            f"{source}: training images are {_shape_text(dataset.train)}, "
            f"test images {_shape_text(dataset.test)}"
        )
    height, width = dataset.train.images.shape[2:]
    if height != width:
        raise InputError(f"{source}: images are {width}x{height}, the LeNet takes square ones")
    if height < SMALLEST_IMAGE:
        raise InputError(
            f"{source}: images are {width}x{height}, the LeNet takes {SMALLEST_IMAGE}x{SMALLEST_IMAGE} up"
        )
    return dataset


def check_class_name(name: str, source: Path | str) -> None:
    """Raise an `InputError` that begins with `source` if `name` can't be written to files and shown."""
    if not name or printable(name) != name:
        raise InputError(f"{source}: wanted a class name in UTF-8, without control characters")


def check_labels(labels: Sequence[int], num_classes: int, source: Path | str) -> None:
    """Raise an `InputError` that begins with `source` if a label is not in 0 ... `num_classes` - 1."""
    for index, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise InputError(
                f"{source}: label {label} at index {index} is out of range, wanted 0 to {num_classes - 1}"
            )


def _shape_text(split: Split) -> str:
    channels, height, width = split.images.shape[1:]
    return f"{width}x{height} with {channels} channel(s)"
