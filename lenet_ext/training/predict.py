"""Classifying image files with the network in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet_ext.engine.frozen import FrozenNet
from lenet_ext.engine.frozen_file import UNUSABLE
from lenet_ext.training.checkpoint import Checkpoint, load_checkpoint, of_prefix, restore_weights
from lenet_ext.training.data import Normalization
from lenet_ext.training.errors import InputError, error_text, out_of_memory_text
from lenet_ext.training.images import Header, read_header, read_pixels, strict_pillow
from lenet_ext.training.network import build_network, frozen_network
from lenet_ext.training.own_network import trusted

IMAGES_AT_A_TIME = 32

Logits = Callable[[Tensor], Tensor]  # (N, classes), of uint8 images (N, C, H, W)


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
    logits = _logits_of(checkpoint, model, trusts_model)
    results: list[Prediction | InputError] = []
    with strict_pillow(), torch.no_grad():
        for start in range(0, len(image_paths), IMAGES_AT_A_TIME):
            read = [_read(path, metadata.network) for path in image_paths[start : start + IMAGES_AT_A_TIME]]
            usable = [one[1] for one in read if not isinstance(one, InputError)]
            best = _best_classes(checkpoint_path, logits, usable)
            for one in read:
                if isinstance(one, InputError):
                    results.append(one)
                else:
                    label, probability = next(best)
                    results.append(Prediction(metadata.class_names[label], probability, one[0]))
    return results


def _logits_of(checkpoint: Checkpoint, model: str | None, trusts_model: bool) -> Logits:
    """The frozen network that the checkpoint describes, or else its layers."""
    metadata = checkpoint.metadata
    normalize = Normalization(metadata.mean, metadata.std)
    if metadata.frozen is None:
        network = network_in(checkpoint, model, trusts_model)
        return lambda images: network(normalize(images))
    trusted(metadata.own, checkpoint.path, model, trusts_model)  # refuses options for another network
    return _frozen_in(checkpoint, normalize)


def _frozen_in(checkpoint: Checkpoint, normalize: Normalization) -> FrozenNet:
    metadata, network = checkpoint.metadata, checkpoint.metadata.network
    weights = of_prefix(checkpoint.tensors, f"{metadata.config['engine']}/weight/")
    image = torch.zeros(
        *(1, network["in_channels"], network["image_size"], network["image_size"]), dtype=torch.uint8
    )
    try:
        frozen = frozen_network(metadata.frozen, weights, network, normalize)
        got, wanted = tuple(frozen(image).shape), (1, network["num_classes"])
        if got != wanted:
            raise ValueError(f"gives {got} for an image, wanted logits {wanted}")
    except UNUSABLE as error:
        if out_of_memory_text(error) is not None:
            raise
        reason = f"{type(error).__name__}: {error_text(error)}"
        raise InputError(f"{checkpoint.path}: describes no network that can be run: {reason}") from error
    return frozen


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
    checkpoint_path: Path, logits: Logits, images: Sequence[Tensor]
) -> Iterator[tuple[int, float]]:
    """The most likely class and its probability for each image."""
    if not images:
        return iter(())
    probabilities = logits(torch.stack(tuple(images))).softmax(dim=1)
    if not probabilities.isfinite().all():
        raise InputError(
            f"{checkpoint_path}: gives probabilities that are not finite; train with a smaller --lr"
        )
    best = probabilities.max(dim=1)
    return zip(best.indices.tolist(), best.values.tolist(), strict=True)
