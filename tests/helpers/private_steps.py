"""Steps of private training for the tests."""

from __future__ import annotations

from typing import Any

import torch
from per_sample import network
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep

NORM = 0.4


def fuse(model: nn.Module) -> lenet_ext.FusedNet:
    return lenet_ext.fuse(model, torch.zeros(1, 2, 10, 10, dtype=next(model.parameters()).dtype))


def make(model: nn.Module | None = None, **options: Any) -> TrainStep:
    own = {"max_sample_grad_norm": NORM, "noise_multiplier": 0.7, "expected_batch_size": 16, **options}
    if "optimizer" not in own:
        own.setdefault("lr", 0.1)
    return TrainStep(fuse(network() if model is None else model), **own)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(module: nn.Module | TrainStep) -> list[Tensor]:
    model = module.fused if isinstance(module, TrainStep) else module
    return [parameter.detach().clone() for parameter in model.parameters()]


def same_bits(first: TrainStep, second: TrainStep) -> bool:
    return all(map(torch.equal, weights(first), weights(second)))
