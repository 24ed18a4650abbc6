"""LeNet, built from any module that has Conv2d, ReLU, MaxPool2d and Linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lenet_ext import nn

KERNEL_SIZE = 5
POOL_SIZE = 2
# Of 16 pixels the two convolutions and poolings leave one.
SMALLEST_IMAGE = 16


class LeNet(torch.nn.Module):
    """LeNet-5 with ReLU and max-pooling in place of its sigmoids and subsampling.

    After LeCun et al., "Gradient-based learning applied to document recognition", section II: conv 6@5x5,
    ReLU, 2x2 max-pool, conv 16@5x5, ReLU, 2x2 max-pool, then linear layers of 120, 84 and `num_classes`.

    image_size: height and width of the square images in pixels, 16 or more. layers: where the layers come
    from; torch.nn gives the native twin, with the same state_dict.

    Takes (N, in_channels, image_size, image_size), returns logits (N, num_classes). Raises ValueError for an
    image size that is too small, and for images of another shape.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, image_size: int = 32, layers: Any = nn
    ) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise ValueError(f"LeNet: image_size must be at least {SMALLEST_IMAGE} pixels, got {image_size}")
        self.image_shape = (in_channels, image_size, image_size)
        after_pool1 = (image_size - KERNEL_SIZE + 1) // POOL_SIZE
        after_pool2 = (after_pool1 - KERNEL_SIZE + 1) // POOL_SIZE
        self.conv1 = layers.Conv2d(in_channels, 6, KERNEL_SIZE)
        self.relu1 = layers.ReLU()
        self.pool1 = layers.MaxPool2d(POOL_SIZE)
        self.conv2 = layers.Conv2d(6, 16, KERNEL_SIZE)
        self.relu2 = layers.ReLU()
        self.pool2 = layers.MaxPool2d(POOL_SIZE)
        self.fc1 = layers.Linear(16 * after_pool2 * after_pool2, 120)
        self.relu3 = layers.ReLU()
        self.fc2 = layers.Linear(120, 84)
        self.relu4 = layers.ReLU()
        self.fc3 = layers.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            wanted, got = ", ".join(map(str, self.image_shape)), tuple(images.shape)
            raise ValueError(f"LeNet: images must have shape (N, {wanted}), got {got}")
        features = self.pool1(self.relu1(self.conv1(images)))
        features = self.pool2(self.relu2(self.conv2(features)))
        hidden = self.relu3(self.fc1(torch.flatten(features, 1)))
        return self.fc3(self.relu4(self.fc2(hidden)))
