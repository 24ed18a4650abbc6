"""The LeNet that fits a data set, from our layers or from native torch's."""

from __future__ import annotations

from typing import Any

import torch

import lenet_ext.nn as lnn
from lenet_ext.models import LeNet
from lenet_ext.training.dataset import Dataset

LAYERS: dict[str, Any] = {"layers": lnn, "torch": torch.nn}


def network_of(dataset: Dataset) -> dict[str, int]:
    """The arguments of the LeNet that fits `dataset`."""
    return {
        "in_channels": dataset.channels,
        "num_classes": len(dataset.class_names),
        "image_size": dataset.image_size,
    }


def build_network(network: dict[str, int], engine: str) -> LeNet:
    """A freshly initialised LeNet; parameters have the same names and shapes for every `engine`."""
    return LeNet(**network, layers=LAYERS[engine])
