"""What a checkpoint says about its run, and whether a run could have said so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lenet_ext.models import SMALLEST_IMAGE
from lenet_ext.training.config import LARGEST_IMAGE, TrainingConfig
from lenet_ext.training.loop import EpochRecord
from lenet_ext.training.own_network import OwnNetwork

FIGURES = ("train_loss", "test_accuracy", "images_per_second", "seconds")


@dataclass(frozen=True)
class Metadata:
    """Everything about a run besides its tensors."""

    format: int
    config: dict[str, Any]
    network: dict[str, int]  # the arguments of LeNet, and of the user's own network
    class_names: list[str]
    mean: list[float]
    std: list[float]
    data_sha256: str
    epoch: int
    step: int
    history: list[EpochRecord]
    own_network: dict[str, str] | None = None  # the fields of OwnNetwork
    frozen: dict[str, Any] | None = None  # a `frozen_description`

    @property
    def own(self) -> OwnNetwork | None:
        """The user's own network, if it is not the LeNet; its text is not to be run unseen (`trusted`)."""
        return None if self.own_network is None else OwnNetwork(**self.own_network)


def checked(metadata: Metadata) -> Metadata:
    """`metadata` with all settings, if a run could have written it.

    Raises `InputError`, `TypeError`, `ValueError`, `ArithmeticError` or `LookupError` otherwise: some other
    program wrote the file, with a right checksum.
    """
    config = TrainingConfig(**metadata.config)
    names = metadata.class_names
    _require(isinstance(names, list) and all(type(name) is str for name in names), "class_names")
    own = metadata.own_network
    _require((own is None) == (config.model is None), "own_network")
    if own is not None:
        _require(own.keys() == {"file", "name", "source"}, "own_network")
        _require(all(type(value) is str and _is_utf8(value) for value in own.values()), "own_network")
        _require(own["name"].isidentifier(), "own_network")
        _require(f"{own['file']}:{own['name']}" == config.model, "own_network")
    _require(metadata.frozen is None or isinstance(metadata.frozen, dict), "frozen")
    network = metadata.network
    _require(isinstance(network, dict), "network")
    _require(network.keys() == {"in_channels", "num_classes", "image_size"}, "network")
    _require(all(type(value) is int for value in network.values()), "network")
    _require(network["num_classes"] == len(names) > 0, "num_classes")
    _require(network["in_channels"] in (1, 3), "in_channels")
    _require(SMALLEST_IMAGE <= network["image_size"] <= LARGEST_IMAGE, "image_size")
    for values, low in ((metadata.mean, -1), (metadata.std, 0)):
        _require(len(values) == network["in_channels"], "mean or std")
        _require(all(_is_finite(value) and value > low for value in values), "mean or std")
    _require(type(metadata.data_sha256) is str, "data_sha256")
    _require(
        all(type(value) is int and value >= 0 for value in (metadata.epoch, metadata.step)), "epoch or step"
    )
    _require(len(metadata.history) == metadata.epoch <= config.epochs, "epoch")
    for number, record in enumerate(metadata.history, start=1):
        _require(record["epoch"] == number, "history")
        for figures in (record, record["torch"]) if config.compare else (record,):
            _check_figures(figures)
    return replace(metadata, config=asdict(config))


def _check_figures(figures: Mapping[str, Any]) -> None:
    _require(all(_is_finite(figures[name]) for name in FIGURES), "history")
    _require(figures["images_per_second"] > 0 and figures["seconds"] > 0, "history")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold
        return False
    return True


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"no run writes such a {what}")
