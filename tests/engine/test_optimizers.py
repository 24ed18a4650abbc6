"""The optimizer of a TrainStep is torch's object: whatever works on one works on it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import EXAMPLES, IMAGES, LABELS, assert_alike, layer, run, twins
from test_train_step import Native, assert_relative, fuse, make, network, weights
from torch import nn
from torch.optim import SGD, lr_scheduler

from lenet_ext import TrainStep

CHOICES: dict[str, list[Any]] = {
    "momentum": [0, 0.9],
    "dampening": [0, 0.4],
    "weight_decay": [0, 0.01],
    "nesterov": [False, True],
    "maximize": [False, True],
}
OPTIONS = [
    {"lr": 0.05, **dict(zip(CHOICES, values, strict=True))} for values in itertools.product(*CHOICES.values())
]


def is_sound(options: dict[str, Any]) -> bool:
    return not options["nesterov"] or (options["momentum"] > 0 and options["dampening"] == 0)


@pytest.mark.parametrize("options", [*filter(is_sound, OPTIONS)], ids=str)
def test_options(options: dict[str, Any]) -> None:
    step, native = twins(**options)
    run(step, native)
    assert_alike(step, native)


@pytest.mark.parametrize("batch_size", [2, 3, 9, 20])
def test_dampening_begins_with_the_second_step_of_an_epoch(batch_size: int) -> None:
    step, native = twins(lr=0.05, momentum=0.9, dampening=0.5)
    losses = step.epoch(IMAGES, LABELS, batch_size)
    parts = torch.arange(9).split(batch_size)
    expected = [native(IMAGES[part], LABELS[part]) for part in parts]
    assert_relative(losses, torch.stack(expected), 1e-11)
    assert_alike(step, native)


def test_the_first_step_is_undone_by_an_error() -> None:
    """No state is left over, with which the dampening would begin at once."""
    step, native = twins(lr=0.05, momentum=0.9, dampening=0.5)
    for epoch in (False, True):
        with pytest.raises(IndexError, match="target 5"):
            step.epoch(IMAGES, LABELS + 1, 4) if epoch else step(IMAGES, LABELS + 1)
        assert not step.optimizer.state
    run(step, native)
    assert_alike(step, native)


def test_parameter_groups() -> None:
    """Options of their own, some without momentum; and a group that joins later."""

    def make_groups(model: nn.Module) -> SGD:
        named = dict(model.named_parameters())
        biases = [parameter for name, parameter in named.items() if name.endswith("bias")]
        return SGD(
            [
                {"params": biases, "momentum": 0.0, "weight_decay": 0.0},
                {"params": [named["0.weight"]], "lr": 0.2, "nesterov": True},
            ],
            lr=0.05,
            momentum=0.9,
            weight_decay=0.01,
        )

    model = network().double()
    native = Native(copy.deepcopy(model))
    native.optimizer = make_groups(native.model)
    step = TrainStep(fuse(model), make_groups(model))
    before = layer(step, 6).weight.detach().clone()
    run(step, native)
    assert_alike(step, native)
    assert torch.equal(layer(step, 6).weight, before)  # of no group yet
    for optimizer, module in ((step.optimizer, model), (native.optimizer, native.model)):
        optimizer.add_param_group({"params": [module[6].weight], "maximize": True})
    run(step, native)
    assert_alike(step, native)


def test_rate_in_a_tensor() -> None:
    """Which is read at every step, since it may change in place."""
    step, native = twins(lr=torch.tensor(0.05, dtype=torch.float64), momentum=0.9)
    for rate in (0.05, 0.01, 0.1):
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0]["lr"].fill_(rate)
        run(step, native, 1)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual, expected, 1e-11)


def test_options_change_between_steps() -> None:
    step, native = twins(lr=0.05, momentum=0.9)
    changes: list[dict[str, Any]] = [
        {"lr": 0.01},
        {"momentum": 0.0},  # the sums are left as they are
        {"momentum": 0.5, "dampening": 0.2},
        {"nesterov": True, "dampening": 0.0},
        {"weight_decay": 0.1, "maximize": True},
    ]
    for change in changes:
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0].update(change)
        run(step, native, 2)
        assert_alike(step, native)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.7),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.01, total_steps=10),  # which changes momentum too
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, 2, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.filterwarnings("error")  # such as that the optimizer was never called
@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str, kind: str) -> None:
    if name in ("OneCycleLR", "CyclicLR") and kind in ("Adagrad", "Adadelta"):
        pytest.skip("they have no momentum to change")
    step, native = twins(kind, **EXAMPLES[kind])
    schedulers = [SCHEDULERS[name](optimizer) for optimizer in (step.optimizer, native.optimizer)]
    for i in range(8):
        run(step, native, 1, 1e-10)
        for scheduler in schedulers:
            scheduler.step(*([float(i)] if name == "ReduceLROnPlateau" else []))
    assert_alike(step, native, 1e-9)


def test_versions_tell_autograd() -> None:
    """Of what the step changed, and of nothing else."""
    step = make(lr=0.05)
    layer(step, 0).weight.requires_grad_(False)
    versions = [parameter._version for parameter in step.fused.parameters()]
    step(IMAGES, LABELS)
    after = [parameter._version for parameter in step.fused.parameters()]
    assert after == [versions[0], *(version + 1 for version in versions[1:])]


def test_averaged_models() -> None:
    step, native = twins(lr=0.05, momentum=0.9)
    averaged = [torch.optim.swa_utils.AveragedModel(module) for module in (step.fused, native.model)]
    crossed = torch.optim.swa_utils.AveragedModel(network().double())
    for _ in range(3):
        run(step, native, 1)
        averaged[0].update_parameters(step.fused)
        averaged[1].update_parameters(native.model)
        crossed.update_parameters(step.fused)  # of the model's twin: by the order of the parameters
    for other in (averaged[0], crossed):
        for actual, expected in zip(weights(other), weights(averaged[1]), strict=True):
            assert_relative(actual, expected, 1e-11)


def test_layers_frozen_and_thawed() -> None:
    """requires_grad is looked at in every step, as torch does."""
    step, native = twins(lr=0.05, momentum=0.9)
    for frozen in ([], [0, 3], [6, 8], [0, 3, 6, 8], [8], []):
        for module in (step.fused, native.model):
            for i in (0, 3, 6, 8):
                module.get_submodule(str(i)).requires_grad_(i not in frozen)
        before = weights(step)
        if len(frozen) == 4:
            step(IMAGES, LABELS)  # in torch the loss has no gradient then
        else:
            run(step, native)
        for i, (name, _) in enumerate(step.fused.named_parameters()):
            assert torch.equal(weights(step)[i], before[i]) == (int(name[0]) in frozen)
        for actual, expected in zip(weights(step), weights(native.model), strict=True):
            assert_relative(actual, expected, 1e-11)
