"""How much memory a training run needs."""

from __future__ import annotations

import torch
from torch import nn

from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.dataset import Outline
from lenet_ext.training.errors import InputError
from lenet_ext.training.learner import EVALUATION_BATCH
from lenet_ext.training.memory import GIB, available_memory, gib_text, require_memory
from lenet_ext.training.network import build_network, network_of
from lenet_ext.training.own_network import OwnNetwork

FLOAT_BYTES = 4
# A learner's tensors of the size of its weights: the weights, the gradients, and the optimizer's state.
WEIGHTS_AND_GRADIENTS = 2
TRAVELLING = 1  # of several processes: the gradients in one piece, which are added up
STATES = {"sgd": 1, "adam": 2, "adamw": 2}
# While a checkpoint is written its bytes are there twice, and it holds weights and the optimizer's state.
COPIES_IN_CHECKPOINT = 2
# Of the LeNet's activations those of the first convolution are the largest; measured in these, an image takes
# so many. Layers keep every result until the backward; the fused engine keeps inputs of linear layers only.
STEP_ACTIVATIONS = {"fused": 1.0, "layers": 5.0, "torch": 5.0}
EVALUATION_ACTIVATIONS = {"fused": 0.5, "layers": 2.5, "torch": 2.5}
# Of all that its layers make, what those of the first convolution are in the LeNet.
SHARE_OF_THE_LARGEST = 1 / 3
# Of the memory there is, what the networks of a sweep that are trained at once may take.
SHARE_OF_A_SWEEP = 1 / 2
MOST_MEMBERS_UNSEEN = 100  # where the system does not say how much memory there is


def check_memory(
    outline: Outline, config: TrainingConfig, own: OwnNetwork | None = None, processes: int = 1
) -> str | None:
    """A line that says what the run needs if that is more than 1 GiB.

    processes: how many of this machine train together. Raises `InputError` if it is more than there is.
    """
    needed, checkpoint = needed_bytes(outline, config, own, processes)
    size = f"{outline.image_size}x{outline.image_size}"
    together = f" in {processes} processes" if processes > 1 else ""
    subject = f"{outline.source}: training on {outline.train + outline.test:,} images of {size}{together}"
    require_memory(needed, subject, "" if outline.loaded else "; a smaller --image-size takes less")
    if needed <= GIB:
        return None
    return f"{subject} needs about {gib_text(needed)} of memory, and {gib_text(checkpoint)} for a checkpoint"


def members_that_fit(outline: Outline, config: TrainingConfig, own: OwnNetwork | None = None) -> int:
    """How many networks a sweep can train at once beside the data, at least 1."""
    available = available_memory()
    if available is None:
        return MOST_MEMBERS_UNSEEN
    of_one, checkpoint = needed_bytes(outline, config, own)
    weights = checkpoint // (1 + STATES[config.optimizer])
    # Its weights as they are built; stacked, with the optimizer's state; a chunk's file as it is written.
    each = weights + checkpoint + COPIES_IN_CHECKPOINT * checkpoint
    if config.augment:  # a batch of its own, copied once into that of all
        each += 2 * config.batch_size * outline.channels * outline.image_size**2
    return max(1, int(available * SHARE_OF_A_SWEEP - of_one) // each)


def needed_bytes(
    outline: Outline, config: TrainingConfig, own: OwnNetwork | None = None, processes: int = 1
) -> tuple[int, int]:
    """About what the run's tensors take at the most beside what is loaded, and the size of a checkpoint.

    Of several processes each has the images and all that is of the size of the weights. They divide the
    batch, and one of them evaluates and writes checkpoints.
    """
    if own is None:
        with torch.device("meta"):
            network = build_network(network_of(outline), "torch")
            image = torch.empty(1, outline.channels, outline.image_size, outline.image_size)
            activations = network.get_submodule("conv1")(image).numel() * FLOAT_BYTES
    else:
        network = _counted(own, outline)
        activations = int(_activations(network, outline) * SHARE_OF_THE_LARGEST) * FLOAT_BYTES
    weights = sum(tensor.numel() for tensor in network.state_dict().values()) * FLOAT_BYTES
    engines = [config.engine, "torch"] if config.compare else [config.engine]
    states = STATES[config.optimizer]
    checkpoint = (1 + states) * weights * len(engines)
    data = 0 if outline.loaded else (outline.train + outline.test) * outline.channels * outline.image_size**2
    if config.device == "cuda":  # which has the rest
        return processes * data + (COPIES_IN_CHECKPOINT + 1) * checkpoint, checkpoint
    batch, evaluated = min(config.batch_size, outline.train), min(EVALUATION_BATCH, outline.test)
    step = max(STEP_ACTIVATIONS[engine] for engine in engines) * activations * batch
    evaluation = max(EVALUATION_ACTIVATIONS[engine] for engine in engines) * activations * evaluated
    transient = max(COPIES_IN_CHECKPOINT * checkpoint, int(step), int(evaluation))
    copies = WEIGHTS_AND_GRADIENTS + states + (TRAVELLING if processes > 1 else 0)
    return processes * (data + copies * weights * len(engines)) + transient, checkpoint


def _counted(own: OwnNetwork, outline: Outline) -> nn.Module:
    """The network without memory for its weights, if it can be built so."""
    try:
        with torch.device("meta"):
            return build_network(network_of(outline), "torch", own)
    except InputError:  # it looks at values
        return build_network(network_of(outline), "torch", own)


def _activations(network: nn.Module, outline: Outline) -> int:
    """The elements of all that the layers of `network` make of an image."""
    count = 0

    def add(module: nn.Module, arguments: object, output: object) -> None:
        nonlocal count
        count += output.numel() if isinstance(output, torch.Tensor) else 0

    for module in network.modules():
        if not module._modules:
            module.register_forward_hook(add)
    with torch.no_grad():
        shape = (1, outline.channels, outline.image_size, outline.image_size)
        network.eval()(torch.zeros(shape, device=next(network.parameters()).device))
    return count
