"""Losses and targets that TrainStep refuses: an error of the right kind, and nothing is changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_losses import CLASSES, Networks, constant_network, map_network, vector_network
from torch import Tensor, nn

from lenet_ext import TrainStep


class Focal(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target) ** 2


def loss_with(change: Callable[[Any], object]) -> nn.Module:
    loss = nn.CrossEntropyLoss()
    change(loss)
    return loss


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "subclass": (Focal(), TypeError, "not Focal: train with fuse and your own loop instead"),
    "other": (nn.KLDivLoss(), TypeError, "the engine has CrossEntropyLoss, NLLLoss, .* not KLDivLoss: train"),
    "function": (F.kl_div, TypeError, "not kl_div: train with fuse"),
    "own function": (lambda a, b: (a - b).sum(), TypeError, "not <lambda>: train with fuse"),
    "class": (nn.MSELoss, TypeError, r"loss must be a module, not its class: MSELoss\(\)"),
    "number": (3, TypeError, "not int"),
    "name": ("hinge", ValueError, 'loss must be "cross_entropy" or "mse", got \'hinge\': others are'),
    "no reduction": (
        nn.MSELoss(reduction="none"),
        ValueError,
        'the reduction of MSELoss must be "mean" or "sum", got \'none\': train with fuse',
    ),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.5), ValueError, "between 0 and 1, got 1.5"),
    "beta": (nn.SmoothL1Loss(beta=-1), ValueError, "the beta of SmoothL1Loss must be at least 0, got -1"),
    "delta": (nn.HuberLoss(), ValueError, "the delta of HuberLoss must be greater than 0, got 0"),
    "ignore_index": (nn.NLLLoss(ignore_index=2**60), ValueError, "ignore_index of NLLLoss must be at most"),
    "gradient": (
        nn.CrossEntropyLoss(torch.ones(5, requires_grad=True)),
        RuntimeError,
        "the loss's weight requires a gradient, which would not be computed: train with fuse",
    ),
    "sparse": (
        nn.CrossEntropyLoss(torch.ones(5).to_sparse()),
        RuntimeError,
        "the loss's weight must be a plain dense tensor",
    ),
    "own forward": (
        loss_with(lambda loss: setattr(loss, "forward", F.cross_entropy)),
        TypeError,
        "CrossEntropyLoss computes something of its own",
    ),
    "hook": (
        loss_with(lambda loss: loss.register_forward_hook(print)),
        RuntimeError,
        "CrossEntropyLoss has hooks, which would not be called",
    ),
}
# Which torch's constructors refuse.
REFUSED["label smoothing"][0].label_smoothing = 1.5
REFUSED["delta"][0].delta = 0


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    loss, error, message = REFUSED[case]
    with pytest.raises(error, match=f"^TrainStep: .*{message}"):
        TrainStep(vector_network().fused, lr=0.1, loss=loss)


def test_refused_once_it_has_changed() -> None:
    networks, loss = vector_network().to(torch.float32), nn.CrossEntropyLoss(torch.ones(CLASSES))
    images, targets = networks.images(4), torch.tensor([0, 1, 2, 1])
    step = TrainStep(networks.fused, lr=0.1, loss=loss)
    step(images, targets)
    loss.weight.requires_grad_()
    with pytest.raises(RuntimeError, match="requires a gradient"):
        step(images, targets)
    loss.weight.requires_grad_(False)
    loss.reduction = "none"
    with pytest.raises(ValueError, match="reduction"):
        step.epoch(images, targets, 2)
    loss.reduction = "mean"
    step(images, targets)


def assert_refused(
    networks: Networks, loss: Any, targets: Tensor, error: type[Exception], message: str
) -> None:
    fused = networks.fused.float()
    images, before = networks.images(len(targets)).float(), copy.deepcopy(list(fused.parameters()))
    step, order = TrainStep(fused, lr=0.1, momentum=0.9, loss=loss), torch.arange(len(images))
    calls: list[Callable[[], object]] = [
        lambda: step(images, targets),
        lambda: step.epoch(images, targets, 2),
        lambda: step.epoch(images, targets, 2, order),
    ]
    for call in calls:
        with pytest.raises(error, match=f"TrainStep: .*{message}"):
            call()
    torch.testing.assert_close(list(fused.parameters()), before, rtol=0, atol=0, equal_nan=True)


BAD_CLASS = torch.tensor([0, 1, 2, 4, 3, 5])
VALUES = torch.full((6, CLASSES), 0.5)
BAD_PROBABILITY = VALUES.clone()
BAD_PROBABILITY[4, 1] = 1.25
UNKNOWN = VALUES.clone()
UNKNOWN[4, 1] = math.nan
TARGETS: dict[str, tuple[nn.Module, Tensor, type[Exception], str]] = {
    "class": (nn.NLLLoss(), BAD_CLASS, IndexError, r"target 5 at position 5 is out of range \[0, 5\)"),
    "negative class": (
        nn.NLLLoss(ignore_index=3),
        BAD_CLASS - 1,
        IndexError,
        "target -1 at position 0 is out",
    ),
    "default ignore_index": (nn.CrossEntropyLoss(ignore_index=1), BAD_CLASS - 100, IndexError, "target -100"),
    "soft nll": (nn.NLLLoss(), VALUES, RuntimeError, "targets must be int64 with 1 dimension, got Float"),
    "float64 probabilities": (
        nn.CrossEntropyLoss(),
        VALUES.double(),
        RuntimeError,
        "must be Float, got Double",
    ),
    "probabilities of fewer": (
        nn.CrossEntropyLoss(),
        VALUES[:, 1:],
        RuntimeError,
        "targets must be int64 with 1 dimension, got Float",
    ),
    "ignored probabilities": (
        nn.CrossEntropyLoss(ignore_index=1),
        VALUES,
        RuntimeError,
        "ignore_index is not for targets that are probabilities",
    ),
    "classes as values": (nn.L1Loss(), BAD_CLASS, RuntimeError, "targets must be Float, got Long"),
    "broadcast": (nn.HuberLoss(), VALUES[:, :1], RuntimeError, r"must have the sizes \[6, 5\], got \[6, 1\]"),
    "too large": (
        nn.BCELoss(),
        BAD_PROBABILITY,
        RuntimeError,
        r"target 1.25 at position \[4, 1\] is not between 0 and 1",
    ),
    "NaN": (nn.BCELoss(), UNKNOWN, RuntimeError, r"target nan at position \[4, 1\] is not between"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets(case: str) -> None:
    loss, targets, error, message = TARGETS[case]
    assert_refused(vector_network(), loss, targets, error, message)


def test_targets_at_positions() -> None:
    targets = torch.ones(4, 5, 3, dtype=torch.int64)
    assert_refused(map_network(), nn.CrossEntropyLoss(), targets[0], RuntimeError, "int64 with 3 dimensions")
    assert_refused(map_network(), nn.NLLLoss(), targets[:, :4], RuntimeError, r"the sizes \[4, 5, 3\]")
    targets[2, 4, 1] = -1
    message = r"target -1 at position \[2, 4, 1\] is out of range \[0, 5\)"
    assert_refused(map_network(), nn.CrossEntropyLoss(), targets, IndexError, message)


WEIGHTS: dict[str, tuple[nn.Module, str]] = {
    "float64": (nn.CrossEntropyLoss(torch.ones(5).double()), "weight must be Float like the .*, got Double"),
    "too few": (nn.CrossEntropyLoss(torch.ones(4)), r"weight must have the sizes \[5\], got \[4\]"),
    "2-D": (nn.CrossEntropyLoss(torch.ones(5, 1)), r"weight must have the sizes \[5\], got \[5, 1\]"),
    "elements": (nn.BCELoss(torch.ones(4)), r"weight \(4,\) does not fit targets \(6, 5\)"),
    "3-D": (nn.BCELoss(torch.ones(1, 6, 5)), r"weight \(1, 6, 5\) does not fit targets \(6, 5\)"),
    "images": (nn.BCELoss(torch.ones(7, 5)), "weight is for batches of 7 images, got (6|2)"),
    "pos_weight": (nn.BCEWithLogitsLoss(pos_weight=torch.ones(5).double()), "pos_weight must be Float like"),
    "meta": (nn.CrossEntropyLoss(torch.ones(5, device="meta")), "weight is on meta, the images are on cpu"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case: str) -> None:
    loss, message = WEIGHTS[case]
    targets = BAD_CLASS.clamp(max=4) if isinstance(loss, nn.CrossEntropyLoss) else VALUES
    assert_refused(vector_network(), loss, targets, RuntimeError, f"the loss's {message}")


@pytest.mark.parametrize("value", [-0.25, 1.5, math.nan, math.inf])
def test_outputs_that_are_no_probabilities(value: float) -> None:
    message = "binary cross entropy needs outputs between 0 and 1: end the network with a sigmoid"
    networks = constant_network(0.5, value, 0, 1, 0.5)
    assert_refused(networks, nn.BCELoss(), VALUES, RuntimeError, message)


@pytest.mark.parametrize("size", [1, 33])
def test_epoch_up_to_outputs_that_are_no_probabilities(size: int) -> None:
    """The steps before are taken, and the exception has their losses."""
    fused = vector_network().fused.float()
    images = torch.rand(5 * size, 3)
    images[3 * size + size // 2] = 1e6
    targets = torch.rand(5 * size, CLASSES)
    step = TrainStep(fused, lr=1e-4, momentum=0.9, loss=nn.BCELoss())
    twin = copy.deepcopy(step)
    with pytest.raises(RuntimeError, match="needs outputs between 0 and 1") as raised:
        step.epoch(images, targets, size)
    assert torch.equal(raised.value.losses, twin.epoch(images[: 3 * size], targets[: 3 * size], size))  # type: ignore[attr-defined]
    assert all(map(torch.equal, fused.parameters(), twin.fused.parameters()))
    torch.testing.assert_close(step.state_dict(), twin.state_dict(), rtol=0, atol=0)
