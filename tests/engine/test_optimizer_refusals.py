"""What a TrainStep would pass over is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import IMAGES, LABELS, layer
from test_train_step import make, weights
from torch import Tensor

from lenet_ext import TrainStep


def unused(_: Tensor) -> None:
    raise AssertionError("it is never called")


REFUSED: dict[str, tuple[Callable[[TrainStep], Any], str]] = {
    "hook of a parameter": (
        lambda step: layer(step, 0).weight.register_hook(unused),
        "0.weight has hooks on its gradient",
    ),
    "late hook of a parameter": (
        lambda step: layer(step, 8).bias.register_post_accumulate_grad_hook(unused),
        "8.bias has hooks on its gradient",
    ),
    "forward hook": (lambda step: step.fused.register_forward_hook(unused), "the network has hooks"),
    "backward hook": (lambda step: step.fused.register_full_backward_hook(unused), "the network has hooks"),
    "hook of a module": (
        lambda step: layer(step, 3).register_forward_pre_hook(unused),
        'layer "3" has hooks',
    ),
    "hook before a step": (
        lambda step: step.optimizer.register_step_pre_hook(unused),
        "the optimizer has hooks on its step",
    ),
    "hook after a step": (
        lambda step: step.optimizer.register_step_post_hook(unused),
        "the optimizer has hooks on its step",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_hooks_are_refused_by_name(case: str, taken: int) -> None:
    """From the step on at which they are there, until they are gone."""
    change, message = REFUSED[case]
    step = make(lr=0.05, momentum=0.9)
    for _ in range(taken):
        step(IMAGES, LABELS)
    handle = change(step)
    before = weights(step)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            step(IMAGES, LABELS)
        with pytest.raises(RuntimeError, match=message):
            step.epoch(IMAGES, LABELS, 2)
    assert all(map(torch.equal, weights(step), before))
    handle.remove()
    step(IMAGES, LABELS)
    assert not any(map(torch.equal, weights(step), before))


def test_autocast_is_refused() -> None:
    step = make(torch.float32, lr=0.05)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast is on"):
        step(IMAGES.float(), LABELS)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        step(IMAGES.float(), LABELS)
