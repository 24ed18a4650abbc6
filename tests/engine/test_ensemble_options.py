"""TrainStep of an ensemble: optimizers with options of each member, their state, losses and schedulers."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from ensembles import (
    MEMBERS,
    Optimizer,
    assert_members,
    assert_same,
    assert_states,
    epochs_alike,
    steps_of,
)
from test_ensemble_step import data, pair
from torch import Tensor, nn

from lenet_ext import FusedEnsemble, TrainStep, fuse_ensemble

# Of each member; what is no list is for all.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": [0.1, 0.01, 0.0], "momentum": [0.0, 0.9, 0.5], "weight_decay": [0.1, 0.0, 0.3]},
    "SGD, none with momentum": {"lr": [0.1, 0.01, 0.0], "momentum": [0.0, 0.0, 0.0]},
    "SGD, damped": {"lr": 0.1, "momentum": [0.9, 0.5, 0.0], "dampening": [0.0, 0.5, 0.1]},
    "SGD, nesterov": {
        "lr": 0.1, "momentum": [0.9, 0.5, 0.3], "nesterov": [True, False, True],
        "maximize": [False, True, False],
    },
    "Adam": {
        "lr": [0.1, 0.01, 0.001], "betas": [(0.9, 0.99), (0.8, 0.9), (0.5, 0.6)], "eps": [1e-8, 1e-3, 1e-2],
        "weight_decay": [0.0, 0.1, 0.2], "amsgrad": [True, False, True], "maximize": [True, False, False],
    },
    "AdamW": {"lr": [0.1, 0.01, 0.001], "weight_decay": [0.0, 0.1, 0.2], "amsgrad": [False, False, False]},
    "RMSprop": {
        "lr": [0.01, 0.01, 0.001], "momentum": [0.0, 0.9, 0.5], "centered": [False, True, False],
        "alpha": [0.9, 0.99, 0.5], "weight_decay": [0.0, 0.1, 0.0],
    },
    "Adagrad": {
        "lr": [0.1, 0.01, 0.001], "lr_decay": [0.0, 0.1, 0.2], "eps": [1e-8, 1e-3, 1e-2],
        "initial_accumulator_value": 0.1,
    },
    "Adadelta": {"lr": [1.0, 0.1, 0.5], "rho": [0.9, 0.5, 0.6], "weight_decay": [0.0, 0.1, 0.0]},
}  # fmt: skip


def stacked(values: Any) -> Any:
    """As a group of an ensemble's optimizer takes the values of all members."""
    if not isinstance(values, list):
        return values
    if isinstance(values[0], tuple):
        return tuple(stacked(list(column)) for column in zip(*values, strict=True))
    return torch.tensor(values, dtype=None if isinstance(values[0], bool) else torch.float64)


def of_member(options: dict[str, Any], member: int) -> dict[str, Any]:
    return {name: value[member] if isinstance(value, list) else value for name, value in options.items()}


def optimizer_of(name: str) -> Optimizer:
    kind, options = getattr(torch.optim, name.split(",")[0]), OPTIONS[name]

    def make(network: nn.Module, member: int | None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = kind(network.parameters(), **of_member(options, member or 0))
        if member is None:
            optimizer.param_groups[0].update({key: stacked(values) for key, values in options.items()})
        return optimizer

    return make


@pytest.mark.parametrize("name", OPTIONS)
def test_optimizers(name: str) -> None:
    steps = steps_of(pair(), optimizer_of(name))
    for _ in range(2):
        epochs_alike(steps, *data(8), 4, torch.randint(8, (MEMBERS, 12)))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith("SGD")])
def test_options_of_sgd(name: str) -> None:
    """Given to TrainStep itself."""
    many, alone = pair()
    step = TrainStep(many, **{key: stacked(values) for key, values in OPTIONS[name].items()})
    singles = [TrainStep(one, **of_member(OPTIONS[name], k)) for k, one in enumerate(alone)]
    epochs_alike((step, singles), *data(8), 4)


def test_groups_and_clipping() -> None:
    def optimizer(network: nn.Module, member: int | None) -> torch.optim.Optimizer:
        rates = [0.1, 0.2, 0.3]
        parameters = list(network.parameters())
        groups: list[dict[str, Any]] = [{"params": parameters[:2], "lr": 0.5}, {"params": parameters[3:]}]
        made = torch.optim.SGD(groups, lr=rates[member or 0], momentum=0.9)
        if member is None:
            made.param_groups[1]["lr"] = stacked(rates)
        return made

    epochs_alike(steps_of(pair(), optimizer, max_grad_norm=0.05), *data(8), 4)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (
            nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0, 0.1]), ignore_index=2, label_smoothing=0.1),
            "classes",
        ),
        (nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum"), "soft"),
        (nn.HuberLoss(delta=0.3), "values"),
        (nn.BCEWithLogitsLoss(torch.rand(4), pos_weight=torch.rand(4)), "values"),
        (nn.BCEWithLogitsLoss(torch.rand(4, 4)), "values"),  # of each image of a batch
    ],
    ids=str,
)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_losses(loss: nn.Module, kind: str, own: bool) -> None:
    x, labels = data(*([MEMBERS, 8] if own else [8]))
    probabilities = torch.rand(*labels.shape, 4)
    targets = {"classes": labels, "values": probabilities, "soft": probabilities.softmax(-1)}[kind]
    epochs_alike(steps_of(pair(), optimizer_of("Adam"), loss), x, targets, 4, own=own)


def test_schedulers() -> None:
    """torch's, for a rate that all members have; rates of their own are changed in the group."""
    steps = steps_of(pair(), optimizer_of("SGD, damped"))
    every = (steps[0], *steps[1])
    schedulers = [torch.optim.lr_scheduler.StepLR(step.optimizer, 1, gamma=0.5) for step in every]
    for _ in range(3):
        epochs_alike(steps, *data(8), 4)
        for scheduler in schedulers:
            scheduler.step()
    steps = steps_of(pair(), optimizer_of("Adam"))
    for _ in range(3):
        epochs_alike(steps, *data(8), 4)
        for step in (steps[0], *steps[1]):
            step.optimizer.param_groups[0]["lr"] *= 0.5


@pytest.mark.parametrize("way", ["state_dict", "saved", "pickle", "deepcopy"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_going_on(name: str, way: str) -> None:
    """From the state of another step, bit for bit, with the options of all members."""
    many, alone = pair()
    step, singles = steps_of((many, alone), optimizer_of(name))
    epochs_alike((step, singles), *data(8), 4)
    if way in ("pickle", "deepcopy"):
        other = copy.deepcopy(step) if way == "deepcopy" else pickle.loads(pickle.dumps(step))
    else:
        network = copy.deepcopy(many)
        other = TrainStep(network, getattr(torch.optim, name)(network.parameters(), lr=0.5))
        file = io.BytesIO()
        torch.save(step.state_dict(), file)
        saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        # torch's optimizers would go on with the very same tensors.
        other.load_state_dict(copy.deepcopy(step.state_dict()) if way == "state_dict" else saved)
    step.epoch(*data(8), 4)  # which the other does not see
    assert other.fused is not many
    assert isinstance(other.fused, FusedEnsemble)
    epochs_alike((other, singles), *data(8), 4, [torch.arange(6), torch.arange(0), torch.arange(8)])


def test_going_on_by_torch() -> None:
    """loss.backward() and the optimizer's own step, where it knows the options: numbers, for all members."""
    many, alone = pair()

    def optimizer(network: nn.Module, _: int | None) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    (step, singles), (x, labels) = steps_of((many, alone), optimizer), data(8)
    epochs_alike((step, singles), x, labels, 8)
    many.eval()(x).square().sum().backward()
    step.optimizer.step()
    for network, single in zip(alone, singles, strict=True):
        network.eval()(x).square().sum().backward()
        single.optimizer.step()
    assert_members(many, alone)
    assert_states(step, singles)
    epochs_alike((step, singles), x, labels, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": torch.ones(2)}, r"lr must be a number or \(3,\), one a member, got \(2,\)"),
        ({"lr": torch.ones(3, 1)}, r"lr must be a number or \(3,\), one a member, got \(3, 1\)"),
        ({"lr": torch.tensor([0.1, -0.1, 0.1])}, "Invalid learning rate: -0.1"),
        ({"lr": torch.tensor([0.1, float("nan"), 0.1])}, "lr must be finite"),
        ({"lr": 0.1, "momentum": torch.tensor([0.1, 0.1, -0.5])}, "Invalid momentum value: -0.5"),
        ({"lr": 0.1, "weight_decay": torch.tensor([0.0, -1.0, 0.1])}, "Invalid weight_decay value: -1"),
        (
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": torch.tensor([0.0, 0.5, 0.0])},
            "Nesterov momentum requires a momentum and zero dampening",
        ),
        (
            {
                "lr": 0.1,
                "momentum": torch.tensor([0.9, 0.0, 0.9]),
                "nesterov": torch.tensor([True, True, False]),
            },
            "Nesterov momentum requires a momentum and zero dampening",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainStep(pair()[0], **options)


def test_options_that_became_wrong() -> None:
    many, (x, labels) = pair()[0], data(8)
    step = TrainStep(many, lr=0.1)
    step(x, labels)
    before = copy.deepcopy(many.state_dict())
    step.optimizer.param_groups[0]["lr"] = torch.ones(2)
    for call in (lambda: step(x, labels), lambda: step.epoch(x, labels, 2)):
        with pytest.raises(RuntimeError, match=r"lr must be a number or \(3,\), one a member, got \(2,\)"):
            call()
    assert_same(dict(many.state_dict()), dict(before))
    step.optimizer.param_groups[0]["lr"] = torch.ones(3)
    step(x, labels)


def test_dampening_and_a_member_without_a_first_step() -> None:
    """torch leaves the dampening out of a parameter's first step, which all members have in common."""
    many, (x, labels) = pair()[0], data(8)
    step = TrainStep(many, lr=0.1, momentum=0.9, dampening=torch.tensor([0.0, 0.5, 0.0]))
    before = copy.deepcopy(many.state_dict())
    order = [torch.arange(8), torch.arange(0), torch.arange(8)]
    with pytest.raises(RuntimeError, match="with dampening every member must take part in the first step"):
        step.epoch(x, labels, 4, order)
    assert_same(dict(many.state_dict()), dict(before))
    assert not step.state_dict()["state"]
    step(x, labels)
    step.epoch(x, labels, 4, order)
    without: dict[str, Tensor] = dict(many.member(1))
    assert without["1.num_batches_tracked"] == 1


class OwnStep(TrainStep):
    pass


def test_a_step_of_a_class_for_one_network() -> None:
    with pytest.raises(TypeError, match="OwnStep, which derives from it, cannot train an ensemble"):
        OwnStep(fuse_ensemble(nn.Linear(4, 3), torch.ones(2, 4), copies=2), lr=0.1)
