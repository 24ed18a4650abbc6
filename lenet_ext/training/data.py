"""Loading a data set by its name, and turning its images into batches for the network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lenet_ext.training.dataset import Dataset, Outline
from lenet_ext.training.errors import require

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "folder")
IMAGES_AT_A_TIME = 500  # in statistics, which copy them


def load_dataset(
    name: str,
    root: Path,
    image_size: int | None = None,
    announce: Callable[[Outline], None] = lambda outline: None,
) -> Dataset:
    """Read the data set `name` (one of `DATASETS`) from under `root`; "digits" needs no folder.

    image_size: what the images of "folder" are resized and cropped to. announce: is called once, as soon as
    it is known what the data will be; if it raises, the rest is not read.
    """
    if name == "folder":
        from lenet_ext.training.folder import read_folder

        return read_folder(root, image_size, announce)
    dataset = _read(name, root)
    announce(Outline.of(dataset, name))
    return dataset


def _read(name: str, root: Path) -> Dataset:
    """The readers are imported only when used, so each needs only its own packages."""
    if name == "digits":
        require("sklearn")
        from lenet_ext.training.digits import read_digits

        return read_digits()
    if name == "cifar10":
        from lenet_ext.training.cifar10 import read_cifar10

        return read_cifar10(root)
    from lenet_ext.training.idx import read_idx_dataset

    return read_idx_dataset(name, root)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in the units of the uint8 images (0 to 255)."""

    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """The statistics of `images` (N, C, H, W) uint8, in exact integers: the same on every machine."""
        values = torch.arange(256)
        mean, std = [], []
        for channel in images.unbind(1):
            histogram = torch.zeros(256, dtype=torch.int64)
            for some in channel.split(IMAGES_AT_A_TIME):
                histogram += torch.bincount(some.flatten(), minlength=256)
            count = channel.numel()
            total = int((histogram * values).sum())
            total_of_squares = int((histogram * values**2).sum())
            variance = (count * total_of_squares - total**2) / count**2
            mean.append(total / count)
            std.append(variance**0.5 or 1.0)  # a constant channel stays constant
        return cls(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to float32 with zero mean and unit deviation, the whole batch at once."""
        mean, std = (
            torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return images.to(torch.float32).sub_(mean).div_(std)


def shuffled_batches(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The indices 0 ... `count` - 1 in an order that only `seed` and `epoch` decide, cut into batches."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(count, generator=generator).split(batch_size)


def derived_seed(*parts: int | str) -> int:
    """A seed that these decide, and nothing that came before: so a resumed run needs no random state."""
    key = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(key[:8], "little")
