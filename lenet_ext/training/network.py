"""The LeNet that fits a data set, from our layers or from native torch's, and its fused form."""

from __future__ import annotations

from typing import Any

import torch

import lenet_ext.nn as lnn
from lenet_ext.engine.fused import FusedNet, fuse
from lenet_ext.models import LeNet
from lenet_ext.training.data import Normalization
from lenet_ext.training.dataset import Dataset, Outline

LAYERS: dict[str, Any] = {"fused": lnn, "layers": lnn, "torch": torch.nn}


def network_of(dataset: Dataset | Outline) -> dict[str, int]:
    """The arguments of the LeNet that fits `dataset`."""
    return {
        "in_channels": dataset.channels,
        "num_classes": len(dataset.class_names),
        "image_size": dataset.image_size,
    }


def build_network(network: dict[str, int], engine: str) -> LeNet:
    """A freshly initialised LeNet; parameters have the same names and shapes for every `engine`."""
    return LeNet(**network, layers=LAYERS[engine])


def fuse_network(model: LeNet, network: dict[str, int], normalize: Normalization) -> FusedNet:
    """`model` in the fused engine, with the normalisation of uint8 images folded in."""
    device = next(model.parameters()).device
    example = torch.empty(
        1, network["in_channels"], network["image_size"], network["image_size"], device=device
    )
    mean, std = ([value / 255 for value in values] for values in (normalize.mean, normalize.std))
    return fuse(model, example, mean=mean, std=std)
