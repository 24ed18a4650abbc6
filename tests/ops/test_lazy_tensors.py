"""Tensors that torch computes when an operator reads them: with a negative bit, or of zeros alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lenet_ext

LAZY = {
    "negative bit": lambda x: torch._neg_view(-x),
    "zeros": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
}


def trained(images: Tensor, targets: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, torch.zeros(1, 2, 6, 6)), lr=0.1, loss="mse")
    return [step(images, targets), *(p.detach() for p in model.parameters())]


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("place", [0, 1])
def test_a_training_step_reads_their_values(kind: str, place: int) -> None:
    arguments = [torch.randn(4, 2, 6, 6), torch.randn(4, 3, 2, 2)]
    lazy = arguments.copy()
    lazy[place] = LAZY[kind](arguments[place])
    arguments[place] = lazy[place] + 0
    assert all(map(torch.equal, trained(*lazy), trained(*arguments)))
