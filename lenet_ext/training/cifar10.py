"""CIFAR-10: the "python version" batches, in the folder that torchvision writes.

The files are pickles, and unpickling can run any code. The reader here admits plain containers, numbers,
strings and numpy arrays, and refuses everything else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lenet_ext.training.dataset import Dataset, Split, check_class_name, check_dataset, check_labels
from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file
from lenet_ext.training.memory import require_memory

FOLDER = "cifar-10-batches-py"
NUM_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)

# The functions that rebuild a numpy array, by the names of numpy 1 and 2; `encode` is how Python 3
# writes bytes in the old pickle protocols.
ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, neither array nor plain data")
        return super().find_class(module, name)


def read_cifar10(root: Path) -> Dataset:
    """CIFAR-10 under `root/cifar-10-batches-py`, images (N, 3, 32, 32)."""
    folder = root / FOLDER
    train = _concatenate([_read_batch(folder / f"data_batch_{number}") for number in range(1, 6)])
    test = _read_batch(folder / "test_batch")
    return check_dataset(Dataset(train, test, _read_class_names(folder / "batches.meta")), folder)


def _read_batch(path: Path) -> Split:
    batch = _read_pickle(path)
    pixels, labels = _field(batch, "data", path), _field(batch, "labels", path)
    row = int(np.prod(IMAGE_SHAPE))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (row,):
        raise InputError(f"{path}: 'data' is not a uint8 array with rows of {row} values")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"{path}: 'labels' is not a list of integers")
    if len(pixels) != len(labels):
        raise InputError(f"{path}: {len(labels)} labels, but {len(pixels)} images")
    check_labels(labels, NUM_CLASSES, path)
    return Split(torch.from_numpy(pixels.copy()).reshape(-1, *IMAGE_SHAPE), torch.tensor(labels))


def _read_class_names(path: Path) -> list[str]:
    names = _field(_read_pickle(path), "label_names", path)
    if not isinstance(names, list) or len(names) != NUM_CLASSES:
        raise InputError(f"{path}: 'label_names' is not a list of {NUM_CLASSES} names")
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
    for text in texts:
        check_class_name(text, path)
    return texts


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        require_memory(check_is_file(path), f"{path}: reading it")
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_error_text(error)}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{path}: corrupt, or not a CIFAR-10 batch: {error_text(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, a CIFAR-10 batch is a dict")
    return content


def _field(content: dict[Any, Any], name: str, path: Path) -> Any:
    """`content[name]`; batches written by Python 2 have byte strings as keys."""
    for key in (name.encode(), name):
        if key in content:
            return content[key]
    raise InputError(f"{path}: has no entry {name!r}")


def _concatenate(splits: list[Split]) -> Split:
    return Split(torch.cat([split.images for split in splits]), torch.cat([split.labels for split in splits]))
