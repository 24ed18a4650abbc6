"""How much memory a training run needs."""

from __future__ import annotations

import torch

from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.dataset import Outline
from lenet_ext.training.learner import EVALUATION_BATCH
from lenet_ext.training.memory import GIB, gib_text, require_memory
from lenet_ext.training.network import build_network, network_of

FLOAT_BYTES = 4
# A learner's tensors of the size of its weights: the weights, the momenta, the gradients.
COPIES_OF_WEIGHTS = 3
# While a checkpoint is written its bytes are there twice, and it holds weights and momenta.
COPIES_IN_CHECKPOINT = 2
# Of the LeNet's activations those of the first convolution are the largest; measured in these, an image takes
# so many. Layers keep every result until the backward; the fused engine keeps inputs of linear layers only.
STEP_ACTIVATIONS = {"fused": 1.0, "layers": 5.0, "torch": 5.0}
EVALUATION_ACTIVATIONS = {"fused": 0.5, "layers": 2.5, "torch": 2.5}


def check_memory(outline: Outline, config: TrainingConfig) -> str | None:
    """A line that says what the run needs if that is more than 1 GiB.

    Raises `InputError` if it is more than there is.
    """
    needed, checkpoint = needed_bytes(outline, config)
    size = f"{outline.image_size}x{outline.image_size}"
    subject = f"{outline.source}: training on {outline.train + outline.test:,} images of {size}"
    require_memory(needed, subject, "" if outline.loaded else "; a smaller --image-size takes less")
    if needed <= GIB:
        return None
    return f"{subject} needs about {gib_text(needed)} of memory, and {gib_text(checkpoint)} for a checkpoint"


def needed_bytes(outline: Outline, config: TrainingConfig) -> tuple[int, int]:
    """About what the run's tensors take at the most beside what is loaded, and the size of a checkpoint."""
    with torch.device("meta"):
        network = build_network(network_of(outline), "torch")
        image = torch.empty(1, outline.channels, outline.image_size, outline.image_size)
        activations = network.conv1(image).numel() * FLOAT_BYTES
    weights = sum(parameter.numel() for parameter in network.parameters()) * FLOAT_BYTES
    engines = [config.engine, "torch"] if config.compare else [config.engine]
    checkpoint = 2 * weights * len(engines)
    data = 0 if outline.loaded else (outline.train + outline.test) * outline.channels * outline.image_size**2
    if config.device == "cuda":  # which has the rest
        return data + (COPIES_IN_CHECKPOINT + 1) * checkpoint, checkpoint
    batch, evaluated = min(config.batch_size, outline.train), min(EVALUATION_BATCH, outline.test)
    step = max(STEP_ACTIVATIONS[engine] for engine in engines) * activations * batch
    evaluation = max(EVALUATION_ACTIVATIONS[engine] for engine in engines) * activations * evaluated
    transient = max(COPIES_IN_CHECKPOINT * checkpoint, int(step), int(evaluation))
    return data + COPIES_OF_WEIGHTS * weights * len(engines) + transient, checkpoint
