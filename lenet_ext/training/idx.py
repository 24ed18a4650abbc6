"""MNIST and Fashion-MNIST: IDX files, gzipped or not, in the folders that torchvision writes.

The format (Y. LeCun, "The MNIST database of handwritten digits"): two zero bytes, a type code (8 = uint8),
the number of dimensions, each dimension as a big-endian 32-bit integer, then the values in row-major order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from lenet_ext.training.dataset import Dataset, Split, check_dataset, check_labels
from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file
from lenet_ext.training.memory import require_memory

FOLDER = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
CLASS_NAMES = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion-mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}
UINT8_CODE = 8
CHUNK_BYTES = 1 << 20


def read_idx_dataset(name: str, root: Path) -> Dataset:
    """The data set `name` ("mnist" or "fashion-mnist") under `root`, images (N, 1, H, W)."""
    folder = root / FOLDER[name]
    class_names = CLASS_NAMES[name]
    train = read_idx_pair(folder, "train", len(class_names))
    test = read_idx_pair(folder, "t10k", len(class_names))
    return check_dataset(Dataset(train, test, class_names), folder)


def read_idx_pair(folder: Path, prefix: str, num_classes: int) -> Split:
    """Images and labels of `folder/prefix-{images-idx3,labels-idx1}-ubyte[.gz]`."""
    images_path = _plain_or_gzipped(folder / f"{prefix}-images-idx3-ubyte")
    labels_path = _plain_or_gzipped(folder / f"{prefix}-labels-idx1-ubyte")
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1).to(torch.int64)
    if len(images) != len(labels):
        raise InputError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    check_labels(labels.tolist(), num_classes, labels_path)
    return Split(images.unsqueeze(1), labels)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in the IDX file `path`, which must have that number of dimensions.

    Raises `InputError` for a missing, truncated, overlong or corrupt file, for another type or shape, and for
    more values than there is memory for.
    """
    try:
        file_bytes = check_is_file(path)
        with _open(path) as file:
            shape = _read_shape(file, path, dimensions)
            expected = math.prod(shape)
            # A few bytes of a gzip file can be any number of values; a plain one holds what it holds.
            require_memory(
                expected if _is_gzipped(path) else min(expected, file_bytes), f"{path}: reading it"
            )
            values = _read_up_to(file, expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: truncated or corrupt gzip file: {error_text(error)}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_error_text(error)}") from error
    if len(values) < expected:
        raise InputError(f"{path}: truncated: {len(values)} bytes of values, the header promises {expected}")
    if len(values) > expected:
        raise InputError(f"{path}: more than the {expected} bytes of values that the header promises")
    if expected == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(values, dtype=torch.uint8).reshape(shape)


def _read_shape(file: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    magic = file.read(4)
    wanted = bytes([0, 0, UINT8_CODE, dimensions])
    if magic != wanted:
        raise InputError(f"{path}: starts with the bytes {magic.hex()}, wanted {wanted.hex()} (an IDX file)")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise InputError(f"{path}: truncated within the header")
    return struct.unpack(f">{dimensions}I", header)


def _read_up_to(file: BinaryIO, limit: int) -> bytearray:
    """At least `limit` bytes, or all there are: a damaged header may promise more than fits in memory.

    Reading on to the end of the file also makes gzip verify its checksum.
    """
    values = bytearray()
    while len(values) < limit and (chunk := file.read(CHUNK_BYTES)):
        values += chunk
    return values


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if _is_gzipped(path) else path.open("rb")


def _is_gzipped(path: Path) -> bool:
    return path.suffix == ".gz"


def _plain_or_gzipped(path: Path) -> Path:
    gzipped = path.with_name(path.name + ".gz")
    for candidate in (path, gzipped):
        if candidate.exists():
            return candidate
    raise InputError(f"{path}: no such file (nor {gzipped.name})")
