"""What per_sample_gradients refuses, by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import NETWORKS, images
from per_sample import batch, network
from torch import nn
from torch.nn.utils import parametrizations

import lenet_ext
from lenet_ext import per_sample_gradients

NAME = "per_sample_gradients"


def refused(error: type[Exception], match: str, *arguments: Any) -> None:
    with pytest.raises(error, match=match):
        per_sample_gradients(*arguments)


def test_refusals() -> None:
    model, (x, targets) = network(), batch(6)
    fused = lenet_ext.fuse(model, x[:1])
    refused(
        TypeError,
        f"{NAME}: fused must come from lenet_ext.fuse, got Sequential",
        model,
        x,
        targets,
    )
    many = lenet_ext.fuse_ensemble(model, x[:1], copies=2)
    refused(TypeError, f"{NAME}: fused is an ensemble", many, x, targets)
    refused(TypeError, f"{NAME}: images must be a torch.Tensor, got list", fused, [x], targets)
    refused(TypeError, f"{NAME}: targets must be a torch.Tensor, got int", fused, x, 3)
    refused(IndexError, rf"{NAME}: target 5 at position 2 is out of range \[0, 5\)",
            fused, x, torch.tensor([0, 1, 5, 0, 0, 0]))  # fmt: skip
    refused(
        RuntimeError,
        f"{NAME}: images must be torch.float64 like 0.weight",
        fused,
        x.float(),
        targets,
    )
    refused(RuntimeError, f"{NAME}: targets", fused, x, targets[:5])
    refused(RuntimeError, f"{NAME}: targets must be a dense tensor", fused, x, targets.to_sparse())
    with torch.autocast("cpu", torch.bfloat16):
        refused(RuntimeError, f"{NAME}: autocast is on", fused, x, targets)


def test_loss_refusals() -> None:
    model, (x, targets) = network(), batch(6)
    fused = lenet_ext.fuse(model, x[:1])
    refused(
        ValueError,
        f'{NAME}: loss must be "cross_entropy" or "mse", got',
        fused,
        x,
        targets,
        "hinge",
    )
    refused(ValueError, f"{NAME}: the reduction of CrossEntropyLoss", fused, x, targets,
            nn.CrossEntropyLoss(reduction="none"))  # fmt: skip
    refused(TypeError, f"{NAME}: the engine has", fused, x, targets, nn.HingeEmbeddingLoss())
    refused(RuntimeError, f"{NAME}: binary cross entropy needs outputs between 0 and 1", fused, x,
            torch.rand(6, 5, dtype=torch.float64), nn.BCELoss())  # fmt: skip


@pytest.mark.parametrize("name", ["batch norm, untracked", "batch norm of features", "residual"])
def test_batch_statistics_are_refused(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().double()
    fused, x = lenet_ext.fuse(model, images(example, 2)), images(example, 4)
    targets = torch.zeros_like(copy.deepcopy(model)(x))
    label = next(path for path, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase))
    refused(RuntimeError, f'{NAME}: layer "{label}": batch_norm in training mode mixes',
            fused, x, targets, "mse")  # fmt: skip


def test_computed_parameters_are_refused() -> None:
    model, (x, targets) = network(), batch(6)
    fused = lenet_ext.fuse(model, x[:1])
    parametrizations.weight_norm(model[6])
    refused(RuntimeError, f"{NAME}: 6.weight is computed from others", fused, x, targets)
