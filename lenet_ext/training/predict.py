"""Classifying image files with the network in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet_ext.training.checkpoint import Checkpoint, load_checkpoint, restore_weights
from lenet_ext.training.data import Normalization
from lenet_ext.training.errors import InputError
from lenet_ext.training.images import Header, read_header, read_pixels, strict_pillow
from lenet_ext.training.network import build_network
from lenet_ext.training.own_network import trusted

IMAGES_AT_A_TIME = 32


@dataclass(frozen=True)
class Prediction:
    """The most likely class of an image, its probability, and what the file said of itself."""

    class_name: str
    probability: float
    header: Header


def predict_files(
    checkpoint_path: Path,
    image_paths: Sequence[Path],
    model: str | None = None,
    *,
    trusts_model: bool = False,
) -> list[Prediction | InputError]:
    """A prediction for each image, or what is wrong with the file.

    Images are turned gray or into RGB, laid over white, and resized and cropped as the network needs. model,
    trusts_model: see `trusted`. Raises `InputError` for a checkpoint that can't be used.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    metadata = checkpoint.metadata
    network = network_in(checkpoint, model, trusts_model)
    normalize = Normalization(metadata.mean, metadata.std)
    results: list[Prediction | InputError] = []
    with strict_pillow(), torch.no_grad():
        for start in range(0, len(image_paths), IMAGES_AT_A_TIME):
            read = [_read(path, metadata.network) for path in image_paths[start : start + IMAGES_AT_A_TIME]]
            usable = [one[1] for one in read if not isinstance(one, InputError)]
            best = _best_classes(checkpoint_path, network, normalize, usable)
            for one in read:
                if isinstance(one, InputError):
                    results.append(one)
                else:
                    label, probability = next(best)
                    results.append(Prediction(metadata.class_names[label], probability, one[0]))
    return results


def network_in(
    checkpoint: Checkpoint, model: str | None, trusts_model: bool, layers: str | None = None
) -> nn.Module:
    """The network of a checkpoint with its weights, in eval mode, layer by layer whatever the engine was.

    layers: "torch" for native torch's.
    """
    metadata = checkpoint.metadata
    engine, own = metadata.config["engine"], metadata.own
    own = trusted(own, checkpoint.path, model, trusts_model)
    if own is None:
        with torch.device("meta"):  # no memory: its weights are those of the checkpoint
            network = build_network(metadata.network, layers or engine)
    else:
        network = build_network(metadata.network, layers or engine, own, metadata.config["seed"])
    restore_weights(checkpoint, network, engine, assign=True)
    return network.eval()


def _read(path: Path, network: dict[str, int]) -> tuple[Header, Tensor] | InputError:
    """The image as (C, H, W) uint8."""
    try:
        pixels = read_pixels(path, network["in_channels"], network["image_size"])
        return read_header(path), torch.tensor(pixels)
    except InputError as error:
        return error


def _best_classes(
    checkpoint_path: Path, model: nn.Module, normalize: Normalization, images: Sequence[Tensor]
) -> Iterator[tuple[int, float]]:
    """The most likely class and its probability for each image."""
    if not images:
        return iter(())
    probabilities = model(normalize(torch.stack(tuple(images)))).softmax(dim=1)
    if not probabilities.isfinite().all():
        raise InputError(
            f"{checkpoint_path}: gives probabilities that are not finite; train with a smaller --lr"
        )
    best = probabilities.max(dim=1)
    return zip(best.indices.tolist(), best.values.tolist(), strict=True)
