"""The layers and networks that are timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential

import lenet_ext
from benchmarks.tasks import BACKWARD, FORWARD, INFERENCE, TRAINING_STEP, Model, Task


def _conv2d(name: str, kernel: int, inputs: int, outputs: int, size: int, **options: Any) -> Model:
    stride = f" stride {options['stride']}" if "stride" in options else ""
    channels = f"{inputs} depthwise" if "groups" in options else f"{inputs} to {outputs}"
    return Model(
        f"{name} {kernel}x{kernel}{stride}, {channels}, {size}x{size}",
        (inputs, size, size),
        partial(Conv2d, inputs, outputs, kernel, **options),
        first=inputs <= 3,
    )


def _max_pool2d(name: str, kernel: int, channels: int, size: int, **options: Any) -> Model:
    stride = f" stride {options['stride']}" if "stride" in options else ""
    name = f"{name} {kernel}x{kernel}{stride}, {channels}, {size}x{size}"
    return Model(name, (channels, size, size), partial(MaxPool2d, kernel, **options), first=False)


def _linear(name: str, inputs: int, outputs: int) -> Model:
    return Model(f"{name} {inputs} to {outputs}", (inputs,), partial(Linear, inputs, outputs), first=False)


def _relu(name: str, *shape: int) -> Model:
    return Model(f"{name} {'x'.join(map(str, shape))}", shape, ReLU, first=False)


# By function. Each name says what it is within the LeNet; sizes are of one image.
LENET_LAYERS: Mapping[str, Sequence[Model]] = {
    "conv2d": (_conv2d("conv1:", 5, 3, 6, 32), _conv2d("conv2:", 5, 6, 16, 14)),
    "max_pool2d": (_max_pool2d("pool1:", 2, 6, 28), _max_pool2d("pool2:", 2, 16, 10)),
    "linear": (_linear("fc1:", 400, 120), _linear("fc2:", 120, 84), _linear("fc3:", 84, 10)),
    "relu": (_relu("relu1:", 6, 28, 28), _relu("relu3:", 120)),
}

# Layers that small convolutional networks are made of, with the batch size of each.
SUITE = (
    (_conv2d("conv", 1, 16, 32, 16), 64),
    (_conv2d("conv", 1, 64, 128, 8), 16),
    (_conv2d("conv", 3, 1, 8, 28, padding=1), 256),
    (_conv2d("conv", 3, 3, 16, 32, padding=1), 64),
    (_conv2d("conv", 3, 16, 16, 32, padding=1), 32),
    (_conv2d("conv", 3, 32, 64, 16, padding=1, stride=2), 64),
    (_conv2d("conv", 3, 64, 64, 8, padding=1), 16),
    (_conv2d("conv", 3, 128, 128, 8, padding=1), 1),
    (_conv2d("conv", 5, 1, 6, 28, padding=2), 1),
    (_conv2d("conv", 5, 3, 6, 32), 256),
    (_conv2d("conv", 5, 6, 16, 14), 256),
    (_conv2d("conv", 5, 32, 64, 14, padding=2), 16),
    (_conv2d("conv", 7, 3, 16, 32, padding=3, stride=2), 32),
    (_conv2d("conv", 3, 32, 32, 16, padding=1, groups=32), 64),
    (_conv2d("conv", 5, 64, 64, 14, padding=2, groups=64), 16),
    (_max_pool2d("pool", 2, 6, 28), 1),
    (_max_pool2d("pool", 2, 16, 32), 64),
    (_max_pool2d("pool", 3, 32, 16, padding=1, stride=2), 64),
    (_linear("linear,", 84, 10), 1),
    (_linear("linear,", 400, 120), 256),
    (_linear("linear,", 1024, 256), 16),
    (_linear("linear,", 9216, 128), 64),
    (_relu("relu,", 16, 32, 32), 64),
)


def _lenet() -> Module:
    return lenet_ext.LeNet(layers=torch.nn)


def _lenet5() -> Module:
    first = (Conv2d(1, 6, 5, padding=2), ReLU(), MaxPool2d(2))
    second = (Conv2d(6, 16, 5), ReLU(), MaxPool2d(2))
    hidden = (Linear(400, 120), ReLU(), Linear(120, 84), ReLU())
    return Sequential(*first, *second, Flatten(), *hidden, Linear(84, 10))


def _mnist() -> Module:
    """Of torch's MNIST example, without dropout."""
    convolutions = (Conv2d(1, 32, 3), ReLU(), Conv2d(32, 64, 3), ReLU(), MaxPool2d(2))
    return Sequential(*convolutions, Flatten(), Linear(9216, 128), ReLU(), Linear(128, 10))


def _femnist() -> Module:
    """Of LEAF's FEMNIST."""
    first = (Conv2d(1, 32, 5, padding=2), ReLU(), MaxPool2d(2))
    second = (Conv2d(32, 64, 5, padding=2), ReLU(), MaxPool2d(2))
    return Sequential(*first, *second, Flatten(), Linear(3136, 2048), ReLU(), Linear(2048, 62))


def _atari() -> Module:
    """Of the DQN that learns Atari games, with six actions."""
    first, second = Conv2d(4, 32, 8, stride=4), Conv2d(32, 64, 4, stride=2)
    convolutions = (first, ReLU(), second, ReLU(), Conv2d(64, 64, 3), ReLU())
    return Sequential(*convolutions, Flatten(), Linear(3136, 512), ReLU(), Linear(512, 6))


def _cifar() -> Module:
    """Three stages of the kind that tutorials stack up for CIFAR-10."""
    first = (Conv2d(3, 32, 3, padding=1), ReLU(), MaxPool2d(2))
    second = (Conv2d(32, 64, 3, padding=1), ReLU(), MaxPool2d(2))
    third = (Conv2d(64, 128, 3, padding=1), ReLU(), MaxPool2d(2))
    return Sequential(*first, *second, *third, Flatten(), Linear(2048, 256), ReLU(), Linear(256, 10))


LENET = Model("lenet", (3, 32, 32), _lenet, classes=10)
LENET5 = Model("lenet5", (1, 28, 28), _lenet5, classes=10)
MNIST = Model("mnist", (1, 28, 28), _mnist, classes=10)
FEMNIST = Model("femnist", (1, 28, 28), _femnist, classes=62)
ATARI = Model("atari", (4, 84, 84), _atari, classes=6)
CIFAR = Model("cifar", (3, 32, 32), _cifar, classes=10)


def lenet_layer_tasks(function: str, batches: Sequence[int], device: str = "cpu") -> list[Task]:
    """Both directions at each batch size; at the largest one, images in channels_last too."""
    tasks = [
        Task(model=layer, batch=batch, direction=direction, device=device)
        for layer in LENET_LAYERS[function]
        for batch in batches
        for direction in (FORWARD, BACKWARD)
    ]
    large = [task for task in tasks if task.batch == max(batches) and len(task.model.image) == 3]
    return tasks + [replace(task, memory_format=torch.channels_last) for task in large]


def suite_tasks() -> list[Task]:
    return [
        Task(model=layer, batch=batch, direction=direction)
        for layer, batch in SUITE
        for direction in (FORWARD, BACKWARD)
    ]


def network_tasks(
    network: Model, batches: Sequence[int], steps: Sequence[int] = (), device: str = "cpu"
) -> list[Task]:
    """Inference of these batches, and training steps of them or of `steps`."""
    return [
        Task(model=network, batch=batch, direction=direction, device=device)
        for direction, sizes in ((INFERENCE, batches), (TRAINING_STEP, steps or batches))
        for batch in sizes
    ]
