"""What TrainStep refuses: an error of the right kind, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_train_step import NESTEROV, data, fuse, make, network, weights
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep

IMAGES, LABELS = data(6, "cross_entropy", torch.float32)
ORDER = torch.tensor([3, 0, 5])


def with_label(value: int) -> Tensor:
    labels = LABELS.clone()
    labels[4] = value
    return labels


def unchanged(
    step: TrainStep, error: type[Exception], message: str | None, call: Callable[[], object]
) -> None:
    step(IMAGES, LABELS)
    before = weights(step) + [entry["momentum_buffer"] for entry in step.state_dict()["state"].values()]
    with pytest.raises(error, match=message):
        call()
    after = weights(step) + [entry["momentum_buffer"] for entry in step.state_dict()["state"].values()]
    assert all(map(torch.equal, before, after))


WRONG: dict[str, tuple[Tensor, Any, str | None]] = {
    "int32 labels": (IMAGES, LABELS.int(), "targets must be int64 with 1 dimension, got Int"),
    "float labels": (IMAGES, LABELS.float(), "targets must be int64"),
    "2-D labels": (IMAGES, LABELS[:, None], "targets must be int64 with 1 dimension"),
    "too few labels": (IMAGES, LABELS[:5], r"targets must have the sizes \[6\], got \[5\]"),
    "too many labels": (IMAGES[:5], LABELS, r"targets must have the sizes \[5\], got \[6\]"),
    "float64 images": (IMAGES.double(), LABELS, "all parameters must be of one dtype"),
    "bytes": (IMAGES.to(torch.uint8), LABELS, "uint8 images need normalization"),
    "3-D images": (IMAGES[0], LABELS, "input must be"),
    "other channels": (IMAGES[:, :1], LABELS, "input channels per group"),
    "meta images": (IMAGES.to("meta"), LABELS, None),
    "meta labels": (IMAGES, LABELS.to("meta"), None),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_batches(case: str) -> None:
    images, labels, message = WRONG[case]
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, message, lambda: step(images, labels))
    unchanged(step, RuntimeError, message, lambda: step.epoch(images, labels, 2, callback=print))


@pytest.mark.parametrize("value", [5, -1, -100, 2**62, -(2**63)])
def test_labels_out_of_range(value: int) -> None:
    step = make(torch.float32, **NESTEROV)
    labels, message = with_label(value), rf"target {value} at position 4 is out of range \[0, 5\)"
    unchanged(step, IndexError, message, lambda: step(IMAGES, labels))
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, labels, 2))
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, labels, 1, ORDER, print, 1))


@pytest.mark.parametrize("value", [6, -1, 2**62])
@pytest.mark.parametrize("callback", [None, lambda done, losses: None])
def test_order_out_of_range(value: int, callback: Any) -> None:
    step = make(torch.float32, **NESTEROV)
    order = torch.tensor([3, 0, value])
    message = rf"order {value} at position 2 is out of range \[0, 6\)"
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, LABELS, 1, order, callback, 1))


@pytest.mark.parametrize("order", [ORDER.int(), ORDER.float(), ORDER[:, None], ORDER.to("meta")], ids=str)
@pytest.mark.parametrize("callback", [None, lambda done, losses: None])
def test_wrong_orders(order: Tensor, callback: Any) -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, None, lambda: step.epoch(IMAGES, LABELS, 2, order, callback, 1))


def test_empty_batch() -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, "the batch is empty", lambda: step(IMAGES[:0], LABELS[:0]))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size(batch_size: int) -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, ValueError, "at least 1", lambda: step.epoch(IMAGES, LABELS, batch_size))
    unchanged(step, ValueError, "at least 1", lambda: step.epoch(IMAGES, LABELS, 1, None, print, batch_size))


@pytest.mark.parametrize("targets", [torch.zeros(6, 4), torch.zeros(6), torch.zeros(6, 5).double(), LABELS])
def test_wrong_values(targets: Tensor) -> None:
    step = TrainStep(fuse(network()), lr=0.1, loss="mse")
    before = weights(step)
    with pytest.raises(RuntimeError, match="targets must"):
        step(IMAGES, targets)
    assert all(map(torch.equal, before, weights(step)))


def test_cross_entropy_of_images() -> None:
    step = TrainStep(fuse(nn.Sequential(nn.Conv2d(2, 5, 3))))
    with pytest.raises(RuntimeError, match=r"cross entropy needs an output \(N, classes\)"):
        step(IMAGES, LABELS)


def test_parameters_that_are_not_contiguous() -> None:
    step = TrainStep(fuse(network().to(memory_format=torch.channels_last)))
    with pytest.raises(RuntimeError, match="parameters must be contiguous"):
        step(IMAGES, LABELS)


def test_sums_of_another_dtype() -> None:
    step = make(torch.float32, **NESTEROV)
    step(IMAGES, LABELS)
    step.fused.double()
    before = weights(step)
    with pytest.raises(RuntimeError, match="buffers must be contiguous, of the dtype of the parameters"):
        step(IMAGES.double(), LABELS)
    assert all(map(torch.equal, before, weights(step)))


def test_networks_that_cannot_be_trained() -> None:
    shared = nn.Linear(4, 4)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    frozen = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    for model, message in ((twice, "used twice"), (frozen, "frozen")):
        with pytest.raises(RuntimeError, match=message):
            TrainStep(lenet_ext.fuse(model, torch.zeros(1, 4)))
    with pytest.raises(TypeError, match=r"fused must come from lenet_ext\.fuse, got Sequential"):
        TrainStep(frozen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr must be 0 or more"),
        ({"lr": float("nan")}, "lr must be 0 or more"),
        ({"momentum": -1.0}, "momentum must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"loss": "hinge"}, 'loss must be "cross_entropy" or "mse", got \'hinge\''),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_states_that_do_not_fit() -> None:
    step = make(torch.float32, **NESTEROV)
    parameters = list(network().parameters())
    groups = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}])
    maximizing = torch.optim.SGD(parameters, maximize=True)
    damped = torch.optim.SGD(parameters, momentum=0.9, dampening=0.5)
    other = TrainStep(fuse(nn.Sequential(nn.Flatten(), nn.Linear(200, 4))), momentum=0.5)
    reversed_order = torch.optim.SGD(parameters[::-1], momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    reversed_order.step()
    for source, message in (
        (groups, "2 parameter groups"),
        (maximizing, "maximize are not supported"),
        (damped, "dampening and"),
        (other, "is for 2 parameters, the network has 7"),
        (reversed_order, r"momentum_buffer of 0.weight has shape \(5,\) for a parameter of shape"),
    ):
        unchanged(step, ValueError, message, partial(step.load_state_dict, source.state_dict()))
    assert (step.lr, step.momentum, step.nesterov) == (0.05, 0.9, True)
