"""Ten thousand training steps: the resident memory does not grow. `pytest -s` shows the measurements."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import lenet_ext

STEPS, WARM_UP = 10_000, 1_000
# A leak of 100 bytes a step would be a megabyte. Arenas of malloc come and go in pieces of that order.
MOST_GROWTH = 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def network(layers: str) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 5))
    return lenet_ext.convert(model) if layers == "ours" else model


def fused_step() -> Callable[[torch.Tensor, torch.Tensor], object]:
    return lenet_ext.TrainStep(
        lenet_ext.fuse(network("native"), torch.zeros(1, 1, 8, 8)), lr=0.01, momentum=0.9
    )


def layered_step(model: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return step


STEPS_OF = {
    "TrainStep": fused_step,
    "layers": lambda: layered_step(network("ours")),
    "fused module": lambda: layered_step(lenet_ext.fuse(network("native"), torch.zeros(1, 1, 8, 8))),
}


@pytest.mark.parametrize("kind", STEPS_OF)
def test_memory_does_not_grow(kind: str) -> None:
    """Batches of changing sizes, as the last one of an epoch is."""
    step = STEPS_OF[kind]()
    images, targets = torch.randn(8, 1, 8, 8), torch.randint(5, (8,))
    for number in range(WARM_UP):
        step(images[: 1 + number % 8], targets[: 1 + number % 8])
    before = resident_bytes()
    for number in range(STEPS):
        step(images[: 1 + number % 8], targets[: 1 + number % 8])
    growth = resident_bytes() - before
    print(f"{kind}: {STEPS} steps, {before / 2**20:.1f} MiB before, {growth / 1024:+.0f} KiB after")
    assert growth < MOST_GROWTH
