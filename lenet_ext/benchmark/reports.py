"""The groups of cases that are measured and written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lenet_ext.benchmark.cases import (
    BACKWARD,
    FORWARD,
    INFERENCE,
    TRAINING_STEP,
    Case,
    LeNetCase,
    OperatorCase,
    Shape,
)
from lenet_ext.benchmark.suite import suite

# Each name says what it is within the LeNet; sizes are of one image.
CONVOLUTIONS: Mapping[str, tuple[Shape, Shape]] = {
    "conv1: 5x5, 3 to 6, 32x32": ((3, 32, 32), (6, 3, 5, 5)),
    "conv2: 5x5, 6 to 16, 14x14": ((6, 14, 14), (16, 6, 5, 5)),
}
POOLINGS: Mapping[str, Shape] = {
    "pool1: 2x2, 6 x 28x28": (6, 28, 28),
    "pool2: 2x2, 16 x 10x10": (16, 10, 10),
}
LINEARS: Mapping[str, tuple[int, int]] = {
    "fc1: 400 to 120": (400, 120),
    "fc2: 120 to 84": (120, 84),
    "fc3: 84 to 10": (84, 10),
}
RELUS: Mapping[str, Shape] = {"relu1: 6 x 28x28": (6, 28, 28), "relu3: 120": (120,)}

LENET_BATCHES = (1, 64, 256, 1024)
OPERATOR_BATCHES = (64, 256)


@dataclass(frozen=True)
class Report:
    """`name` is also the name of its files."""

    name: str
    title: str
    cases: Sequence[Case]


def _operator_cases(name: str, **layer: Any) -> list[OperatorCase]:
    """Common batch sizes, both directions, and for images both memory formats."""
    cases = [
        OperatorCase(name=name, batch=batch, direction=direction, **layer)
        for batch in OPERATOR_BATCHES
        for direction in (FORWARD, BACKWARD)
    ]
    if len(layer["input"]) == 3:
        nhwc = f"{name}, channels_last"
        cases += [
            replace(case, name=nhwc, memory_format=torch.channels_last)
            for case in cases
            if case.batch == max(OPERATOR_BATCHES)
        ]
    return cases


def _conv2d() -> list[OperatorCase]:
    cases = []
    for name, (input, weight) in CONVOLUTIONS.items():
        is_first = name.startswith("conv1")
        cases += _operator_cases(
            name, operator="conv2d", input=input, weight=weight, input_gradient=not is_first
        )
    return cases


def _max_pool2d() -> list[OperatorCase]:
    cases = []
    for name, input in POOLINGS.items():
        cases += _operator_cases(name, operator="max_pool2d", input=input, arguments={"kernel_size": 2})
    return cases


def _linear() -> list[OperatorCase]:
    cases = []
    for name, (inputs, outputs) in LINEARS.items():
        cases += _operator_cases(name, operator="linear", input=(inputs,), weight=(outputs, inputs))
    return cases


def _relu() -> list[OperatorCase]:
    cases = []
    for name, input in RELUS.items():
        cases += _operator_cases(name, operator="relu", input=input)
    return cases


def _lenet() -> list[LeNetCase]:
    return [
        LeNetCase(batch=batch, direction=direction)
        for direction in (TRAINING_STEP, INFERENCE)
        for batch in LENET_BATCHES
    ]


REPORTS = {
    report.name: report
    for report in (
        Report("lenet", "LeNet: a training step (SGD with momentum) and inference", _lenet()),
        Report("conv2d", "conv2d: the convolutions of the LeNet", _conv2d()),
        Report("max_pool2d", "max_pool2d: the poolings of the LeNet", _max_pool2d()),
        Report("linear", "linear: the linear layers of the LeNet", _linear()),
        Report("relu", "relu: activations of the LeNet", _relu()),
        Report("suite", "Layers of small convolutional networks", suite()),
    )
}
