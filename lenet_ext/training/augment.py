"""Changed copies of training images: shifted by a few pixels, and mirrored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4  # pixels; the usual crop of CIFAR-10, after He et al., "Deep residual learning", section 4.2
# Whose mirror images are no digits.
UNMIRRORED = {"digits", "mnist"}


def augmented(
    images: Tensor,
    generator: torch.Generator,
    mirror: bool,
    *,
    share: slice = slice(None),
    batch_size: int | None = None,
) -> Tensor:
    """Images (N, C, H, W) uint8, each cropped at a random place out of itself within a black border.

    mirror: whether every second one, by chance, has left and right exchanged. What is drawn comes from
    `generator`, which is on the CPU, alone. share: which images of a batch of `batch_size` these are: numbers
    are drawn for the whole batch, so that each image is changed as it is in the whole.
    """
    count, _, height, width = images.shape
    drawn = count if batch_size is None else batch_size
    top, left = torch.randint(2 * PADDING + 1, (2, drawn), generator=generator)[:, share]
    mirrored = (torch.rand(drawn, generator=generator) < 0.5)[share]
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    if mirror:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    columns = left[:, None] + columns
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = pad(images, (PADDING,) * 4)
    numbers = torch.arange(count, device=images.device)
    # Indices of three dimensions around a slice: torch puts the channels last.
    cropped = padded[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).contiguous()
