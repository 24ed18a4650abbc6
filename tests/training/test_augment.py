"""Changed copies of training images: each a crop of the padded image, perhaps mirrored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from lenet_ext.training.augment import PADDING, augmented


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(image: Tensor, mirror: bool) -> set[bytes]:
    """All that an image may become."""
    _, height, width = image.shape
    padded = pad(image, (PADDING,) * 4)
    shifts = range(2 * PADDING + 1)
    found = [padded[:, y : y + height, x : x + width] for y in shifts for x in shifts]
    found += [crop.flip(2) for crop in found] if mirror else []
    return {crop.contiguous().numpy().tobytes() for crop in found}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 8, 11)])
def test_every_crop_comes_and_no_other(shape: tuple[int, ...], mirror: bool) -> None:
    image = torch.randint(256, shape, dtype=torch.uint8, generator=generator())
    many = augmented(image.expand(4000, *shape), generator(), mirror)
    assert (many.dtype, tuple(many.shape)) == (torch.uint8, (4000, *shape))
    assert {one.numpy().tobytes() for one in many} == crops(image, mirror)


def test_each_image_stays_at_its_place() -> None:
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1).expand(200, 3, 10, 10)
    assert torch.equal(augmented(images, generator(), True)[:, :, 5, 5], images[:, :, 5, 5])


def test_the_generator_decides() -> None:
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator())
    first, again, other = (augmented(images, generator(seed), True) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.random.get_rng_state()
    augmented(images, generator(), True)
    assert torch.equal(state, torch.random.get_rng_state())
