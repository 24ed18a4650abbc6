"""A network trained by the engine and the same by torch, with a torch optimizer each."""

from __future__ import annotations

import copy
from typing import Any

import torch
from test_train_step import Native, assert_relative, data, fuse, network, weights
from torch import Tensor, nn

from lenet_ext import TrainStep

IMAGES, LABELS = data(9, "cross_entropy", torch.float64)
# Of each kind an example with all of its state.
EXAMPLES: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.001, "momentum": 0.9, "centered": True},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.2},
    "Adadelta": {"lr": 0.5, "rho": 0.8},
}


def optimizer_of(kind: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def native_of(kind: str, model: nn.Module, **options: Any) -> Native:
    native = Native(model)
    native.optimizer = optimizer_of(kind, model, **options)
    return native


def twins(
    kind: str = "SGD", *, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[TrainStep, Native]:
    """The same network, trained by the engine and by torch, with optimizers of their own."""
    model = network().to(dtype)
    native = native_of(kind, copy.deepcopy(model), **options)
    return TrainStep(fuse(model), optimizer_of(kind, model, **options)), native


def assert_alike(step: TrainStep, native: Native, tolerance: float = 1e-11) -> None:
    """In their weights, and in the state of their optimizers."""
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, tolerance)
    ours, theirs = step.state_dict(), native.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        assert ours["state"][number].keys() == state.keys()
        for name, tensor in state.items():
            if name == "step":
                assert ours["state"][number][name].shape == ()
                assert float(ours["state"][number][name]) == float(tensor)
            elif tensor is not None:
                assert_relative(ours["state"][number][name], tensor, tolerance)


def layer(step: TrainStep, number: int) -> nn.Module:
    return step.fused.get_submodule(str(number))


def run(step: TrainStep, native: Native, steps: int = 3, tolerance: float = 1e-11) -> None:
    for _ in range(steps):
        images = IMAGES.to(weights(step)[0].dtype)
        assert_relative(step(images, LABELS), native(images, LABELS), tolerance)


def same_bits(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))
