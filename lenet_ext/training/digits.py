"""The 1,797 handwritten digits inside scikit-learn: real data with no download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from lenet_ext.training.dataset import Dataset, Split, check_dataset

UPSCALED_SIZE = 32  # four times the original 8: small enough to be fast, large enough for the LeNet
LARGEST_VALUE = 16  # the originals count ink in 4x4 blocks, 0 to 16
TEST_EVERY = 5  # of each digit every fifth image tests, the others train


def read_digits() -> Dataset:
    """1,433 training and 364 test images (N, 1, 32, 32), always the same split."""
    raw = load_digits()
    images = _upscale(torch.from_numpy(raw.images)).unsqueeze(1)
    labels = torch.from_numpy(raw.target).to(torch.int64)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        is_test[torch.nonzero(labels == digit).flatten()[::TEST_EVERY]] = True
    train, test = (Split(images[chosen], labels[chosen]) for chosen in (~is_test, is_test))
    return check_dataset(Dataset(train, test, [str(digit) for digit in range(10)]), "digits")


def _upscale(images: torch.Tensor) -> torch.Tensor:
    """(N, 8, 8) in 0 ... 16 to (N, 32, 32) uint8 in 0 ... 255.

    At a whole factor the bilinear weights are small binary fractions, so float64 holds every value exactly,
    and the result is the same on every machine.
    """
    size = (UPSCALED_SIZE, UPSCALED_SIZE)
    scaled = interpolate(images.double().unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    return (scaled * (255 / LARGEST_VALUE)).round().to(torch.uint8)
