"""The network that fits a data set, from our layers or from native torch's, and its fused form."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import lenet_ext.nn as lnn
from lenet_ext.convert import convert
from lenet_ext.engine.ensemble import FusedEnsemble, fuse_ensemble
from lenet_ext.engine.frozen import FrozenNet
from lenet_ext.engine.frozen_file import description_of, parts_from
from lenet_ext.engine.fused import FusedNet, fuse, normalization_of
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.models import LeNet
from lenet_ext.training.data import Normalization
from lenet_ext.training.dataset import Dataset, Outline
from lenet_ext.training.errors import error_text, out_of_memory_text
from lenet_ext.training.own_network import OwnNetwork

LAYERS: dict[str, Any] = {"fused": lnn, "layers": lnn, "torch": torch.nn}


def network_of(dataset: Dataset | Outline) -> dict[str, int]:
    """The arguments of the network that fits `dataset`."""
    return {
        "in_channels": dataset.channels,
        "num_classes": len(dataset.class_names),
        "image_size": dataset.image_size,
    }


def build_network(
    network: dict[str, int], engine: str, own: OwnNetwork | None = None, seed: int = 0
) -> nn.Module:
    """A freshly initialised network, a LeNet unless it is the user's own.

    Parameters and buffers have the same names, shapes and values for every `engine`: `seed` decides on them,
    and on what a network of one's own draws beside them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if own is None:
            return LeNet(**network, layers=LAYERS[engine])
        model = own.build(network)
    return convert_quietly(model) if engine == "layers" else model


def convert_quietly(model: nn.Module) -> nn.Module:
    """`convert`, without its warnings of functions that stay torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return convert(model)


def fuse_network(model: nn.Module, network: dict[str, int], normalize: Normalization) -> FusedNet:
    """`model` in the fused engine, with the normalisation of uint8 images folded in."""
    example = _example(network).to(next(model.parameters()).device)
    return fuse(model, example, mean=_share(normalize.mean), std=_share(normalize.std))


def frozen_description(fused: FusedNet, stored: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """What `frozen_network` makes a network of, beside the tensors `stored`: the state_dict of its model.

    None where it cannot be frozen, or takes a tensor that is not stored, or not as it is.
    """
    try:
        parts = fused._eval_parts()
        description = description_of(parts)
    except RuntimeError:
        return None
    # A state_dict lacks buffers that are not persistent, and hooks of a user's own may change what is in it.
    own = all(
        name in stored and _place(stored[name]) == _place(parts.tensors[name]) for name in parts.tensors
    )
    return description if own else None


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def frozen_network(
    description: Any, tensors: Mapping[str, Tensor], network: dict[str, int], normalize: Normalization
) -> FrozenNet:
    """The network that `fuse_network` made, in eval mode, of its `frozen_description`.

    Raises one of `lenet_ext.engine.frozen_file.UNUSABLE` where these do not fit together.
    """
    scales = normalization_of(_share(normalize.mean), _share(normalize.std), _example(network))
    return FrozenNet(parts_from(description, tensors, scales))


def fuse_networks(
    models: Sequence[nn.Module], network: dict[str, int], normalize: Normalization
) -> FusedEnsemble:
    """The same of many networks at once, on the CPU."""
    mean, std = _share(normalize.mean), _share(normalize.std)
    return fuse_ensemble(models, _example(network), mean=mean, std=std)


def _example(network: dict[str, int]) -> Tensor:
    return torch.empty(1, network["in_channels"], network["image_size"], network["image_size"])


def _share(values: Sequence[float]) -> list[float]:
    """Of the largest byte: the engine takes a byte for a number from 0 to 1."""
    return [value / 255 for value in values]


def why_not_fused(model: nn.Module, network: dict[str, int], device: str) -> str | None:
    """What the fused engine has against `model`, in training or in evaluation; None where it takes it."""
    normalize = Normalization([0.0] * network["in_channels"], [255.0] * network["in_channels"])
    shape = (2, network["in_channels"], network["image_size"], network["image_size"])
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    try:
        with torch.random.fork_rng(devices=[]):
            fused = fuse_network(copy.deepcopy(model).to(device), network, normalize)
            TrainStep(fused.train(), lr=0.0)(images, labels)
            fused.eval()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        if out_of_memory_text(error) is not None:
            raise
        return error_text(error)
    return None
