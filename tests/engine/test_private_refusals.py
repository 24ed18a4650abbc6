"""What TrainStep refuses of private training, by name, and what memory it takes."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from per_sample import batch, network
from private_steps import fuse, make, seeded
from torch import nn

from lenet_ext import TrainStep

WRONG = {
    "noise_multiplier is for private training": {"max_sample_grad_norm": None},
    "max_sample_grad_norm needs a noise_multiplier": {"noise_multiplier": None},
    "max_grad_norm and max_sample_grad_norm exclude each other": {"max_grad_norm": 1.0},
    "generator must be a torch.Generator, got int": {"generator": 3},
    "secure_mode must be a bool, got int": {"secure_mode": 1},
    "secure_mode draws from the operating system": {"secure_mode": True, "generator": seeded()},
    "max_sample_grad_norm must be a number, got str": {"max_sample_grad_norm": "1"},
    "max_sample_grad_norm must be positive and finite, got 0": {"max_sample_grad_norm": 0},
    "noise_multiplier must be at least 0 and finite, got -1": {"noise_multiplier": -1},
    "expected_batch_size must be positive and finite, got nan": {"expected_batch_size": float("nan")},
    'the reduction "mean" needs expected_batch_size': {"expected_batch_size": None},
}


@pytest.mark.parametrize("message", WRONG)
def test_refusals(message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"TrainStep: {message}"):
        make(**WRONG[message])


@pytest.mark.parametrize("name", ["noise_multiplier", "expected_batch_size"])
@pytest.mark.parametrize("value", [0, 0.0, 1.5])
def test_nothing_private_is_passed_over(name: str, value: float) -> None:
    with pytest.raises(TypeError, match=f"TrainStep: {name} is for private training"):
        TrainStep(fuse(network()), lr=0.1, **{name: value})


def test_none_asks_for_a_plain_step() -> None:
    step = TrainStep(
        fuse(network()), lr=0.1, max_sample_grad_norm=None, noise_multiplier=None, secure_mode=False
    )
    assert type(step) is TrainStep


def test_classes_that_derive_are_refused() -> None:
    class Own(TrainStep):
        pass

    with pytest.raises(TypeError, match="TrainStep: Own, which derives from it, cannot train privately"):
        Own(fuse(network()), lr=0.1, max_sample_grad_norm=1.0, noise_multiplier=1.0)


def test_batch_statistics_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5)).double()
    step = make(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match='TrainStep: layer "1": batch_norm in training mode mixes'):
        step(*batch(4))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    step.fused.eval()
    step(*batch(4))


MEMORY = """
import resource, torch, lenet_ext
model = lenet_ext.LeNet(layers=torch.nn)
images, labels = torch.randn(4096, 3, 32, 32), torch.randint(10, (4096,))
step = lenet_ext.TrainStep(lenet_ext.fuse(model, images[:1]), lr=0.1, max_sample_grad_norm=1.0,
                           noise_multiplier=1.0, expected_batch_size=4096)
step(images[:1], labels[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(images, labels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_batch() -> None:
    """The gradients of 4096 images would be a gigabyte. In KiB, beyond what a step with one image takes."""
    finished = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(finished.stdout) < 15 * 1024
