"""Images in folders: `train/<class>/*` and `test/<class>/*`."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lenet_ext.models import SMALLEST_IMAGE
from lenet_ext.training.dataset import Dataset, Outline, Split, check_class_name, check_dataset
from lenet_ext.training.errors import InputError, os_error_text, refuse_all
from lenet_ext.training.images import Header, read_header, read_pixels, strict_pillow
from lenet_ext.training.memory import available_memory

SPLITS = ("train", "test")
# What file managers and archives leave behind, in lower case, beside names that start with a dot.
JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx"}
# Pillow decodes outside Python's global lock, which pays for images of more pixels than this.
PIXELS_WORTH_A_THREAD = 128 * 128
# What a pixel takes while it is decoded: 4 bytes in an image of Pillow's, of which up to four live at a time.
BYTES_TO_DECODE_A_PIXEL = 16
FIT_HINT = "--image-size N resizes and crops all of them to NxN"


def read_folder(root: Path, image_size: int | None, announce: Callable[[Outline], None]) -> Dataset:
    """The images under `root`; the classes are the folder names in sorted order.

    Images are (N, 1, H, W) if every file is gray, (N, 3, H, W) otherwise; with an `image_size` they are
    resized and cropped to it. `announce` is called when all headers are read and nothing is decoded. Raises
    `InputError` for a missing folder, an empty class, classes that differ between train and test, files that
    can't be used (for all of them at once), and without an `image_size` for sizes that differ.
    """
    folders = [_class_folders(root / split) for split in SPLITS]
    _check_same_classes(root, *folders)
    class_names = sorted(folders[0])
    files = [_files([of_split[name] for name in class_names]) for of_split in folders]
    paths = [path for of_split, _ in files for path in of_split]
    with strict_pillow():
        headers, errors = _read_headers(paths)
        pixels = None
        if not errors:
            size = image_size or _common_size(root, headers)
            channels = 1 if all(header.gray for header in headers.values()) else 3
            train, test = (len(of_split) for of_split, _ in files)
            remarks = _remarks(root, headers)
            announce(Outline(str(root), train, test, class_names, channels, size, remarks))
            pixels = np.empty((train + test, channels, size, size), np.uint8)
        errors |= _decode(headers, pixels)
    texts = [str(errors[path]) for path in paths if path in errors]
    refuse_all(texts, f"{root}: {len(texts)} of {len(paths)} files cannot be used:")
    images = torch.from_numpy(pixels).split([len(of_split) for of_split, _ in files])
    train_split, test_split = (Split(some, labels) for some, (_, labels) in zip(images, files, strict=True))
    return check_dataset(Dataset(train_split, test_split, class_names), root)


def _class_folders(folder: Path) -> dict[str, Path]:
    """The class folders in `folder` by the names of their classes.

    A name is the folder's in Unicode's composed form and without blanks around it: file systems and archives
    spell an accent in two ways, and a blank at the end can't be seen.
    """
    folders: dict[str, Path] = {}
    for path in _entries(folder):
        if not path.is_dir():
            continue
        name = unicodedata.normalize("NFC", path.name).strip()
        check_class_name(name, path)
        if name in folders:
            raise InputError(
                f"'{path}' and '{folders[name]}' are the same class: their names differ only in blanks at "
                "the ends or in how Unicode spells a letter"
            )
        folders[name] = path
    if len(folders) < 2:
        raise InputError(f"{folder}: {len(folders)} class folder(s), wanted at least 2")
    return folders


def _check_same_classes(root: Path, train: dict[str, Path], test: dict[str, Path]) -> None:
    texts = []
    for name in sorted(train.keys() ^ test.keys()):
        split, present = ("test", train[name]) if name in train else ("train", test[name])
        texts.append(f"{root / split / name}: no such class folder, but {present.parent} has one")
    refuse_all(texts, f"{root}: the classes of train and test differ:")


def _files(class_folders: Sequence[Path]) -> tuple[list[Path], torch.Tensor]:
    """What lies in the folders, in order, and the number of the folder for each."""
    entries = [_entries(folder) for folder in class_folders]
    empty = [folder for folder, paths in zip(class_folders, entries, strict=True) if not paths]
    refuse_all([f"{folder}: an empty class, it holds no images" for folder in empty], "empty classes:")
    labels = [label for label, paths in enumerate(entries) for _ in paths]
    return [path for paths in entries for path in paths], torch.tensor(labels)


def _entries(folder: Path) -> list[Path]:
    """The folder's content by name: the order of the images must not depend on the disk."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read as a folder: {os_error_text(error)}") from error
    return [path for path in paths if not path.name.startswith(".") and path.name.casefold() not in JUNK]


def _read_headers(paths: Sequence[Path]) -> tuple[dict[Path, Header], dict[Path, InputError]]:
    """In one thread: a header takes microseconds, and Python's global lock."""
    headers, errors = {}, {}
    for path in paths:
        try:
            headers[path] = read_header(path)
        except InputError as error:
            errors[path] = error
    return headers, errors


def _common_size(root: Path, headers: dict[Path, Header]) -> int:
    """Height and width of all images; an `InputError` if they have none in common that a LeNet takes."""
    (common, count), *others = Counter(header.size for header in headers.values()).most_common()
    if others:
        path, odd = next((path, header.size) for path, header in headers.items() if header.size != common)
        raise InputError(
            f"{root}: {len(headers) - count} of {len(headers)} images are not {_size_text(common)}, the most "
            f"frequent size: {path} is {_size_text(odd)}; {FIT_HINT}"
        )
    width, height = common
    if width != height or height < SMALLEST_IMAGE:
        raise InputError(
            f"{root}: images are {_size_text(common)}, the LeNet takes square ones of "
            f"{SMALLEST_IMAGE}x{SMALLEST_IMAGE} or more; {FIT_HINT}"
        )
    return height


def _size_text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _remarks(root: Path, headers: dict[Path, Header]) -> list[str]:
    """What is done with the files that the user may not expect."""
    remarks = []
    if transparent := sum(header.transparent for header in headers.values()):
        remarks.append(f"{root}: {transparent} of {len(headers)} images have transparency: laid over white")
    loose = [path for split in SPLITS for path in _entries(root / split) if not path.is_dir()]
    if loose:
        remarks.append(f"{root}: {len(loose)} file(s) beside the class folders are not read, e.g. {loose[0]}")
    return remarks


def _decode(headers: dict[Path, Header], target: np.ndarray | None) -> dict[Path, InputError]:
    """Decode all images into `target` (N, C, H, W); without one only to find those that are damaged."""
    channels, size = (3, None) if target is None else target.shape[1:3]
    errors = {}

    def decode(index: int, path: Path) -> None:
        try:
            pixels = read_pixels(path, channels, size)
            if target is not None:
                target[index] = pixels
        except InputError as error:
            errors[path] = error

    areas = [width * height for width, height in (header.size for header in headers.values())]
    if sum(areas) <= PIXELS_WORTH_A_THREAD * len(areas):
        for index, path in enumerate(headers):
            decode(index, path)
    else:
        with ThreadPoolExecutor(_threads(max(areas))) as pool:
            list(pool.map(decode, range(len(headers)), headers))
    return errors


def _threads(pixels: int) -> int:
    """How many images of so many pixels are decoded at a time: one a CPU, if they fit in memory."""
    cpus = os.cpu_count() or 1
    available = available_memory()
    return cpus if available is None else max(1, min(cpus, available // (BYTES_TO_DECODE_A_PIXEL * pixels)))
