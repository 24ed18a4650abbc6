"""Classifying image files with the network in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from lenet_ext.training.checkpoint import load_checkpoint, restore_weights
from lenet_ext.training.data import Normalization
from lenet_ext.training.errors import InputError
from lenet_ext.training.images import open_image, pixels_of
from lenet_ext.training.learner import EVALUATION_BATCH
from lenet_ext.training.network import build_network


def predict_files(checkpoint_path: Path, image_paths: Sequence[Path]) -> list[tuple[str, float]]:
    """The most likely class and its probability for each image.

    Images are turned gray or into RGB and resized as the network needs. Raises `InputError` for a checkpoint
    or an image that can't be used.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    metadata = checkpoint.metadata
    engine = metadata.config["engine"]
    with torch.device("meta"):  # no memory: its weights are those of the checkpoint
        model = build_network(metadata.network, engine)
    restore_weights(checkpoint, model, engine, assign=True)
    normalize = Normalization(metadata.mean, metadata.std)
    size = metadata.network["image_size"]
    mode = "L" if metadata.network["in_channels"] == 1 else "RGB"
    images = [_fitted(open_image(path), mode, size) for path in image_paths]
    with torch.no_grad():
        batches = torch.stack(images).split(EVALUATION_BATCH)
        probabilities = torch.cat([model(normalize(batch)).softmax(dim=1) for batch in batches])
    if not probabilities.isfinite().all():
        raise InputError(
            f"{checkpoint_path}: gives probabilities that are not finite; train with a smaller --lr"
        )
    best = probabilities.max(dim=1)
    names = [metadata.class_names[index] for index in best.indices.tolist()]
    return list(zip(names, best.values.tolist(), strict=True))


def _fitted(image: Image.Image, mode: str, size: int) -> torch.Tensor:
    """(C, size, size) uint8."""
    image = image.convert(mode)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.tensor(pixels_of(image))
