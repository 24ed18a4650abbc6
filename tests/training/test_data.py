"""What is done with data: the digits, normalisation, batches, fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_helpers import (
    random_pixels,
)

from lenet_ext.training.data import Normalization, load_dataset, shuffled_batches
from lenet_ext.training.dataset import Dataset, Split


def test_digits_are_split_by_class_without_overlap() -> None:
    digits = load_dataset("digits", Path())
    assert len(digits.train) + len(digits.test) == 1797
    from lenet_ext.training.digits import read_digits

    said = f"{len(digits.train):,} training and {len(digits.test):,} test images"
    assert read_digits.__doc__ is not None
    assert said in read_digits.__doc__
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
