"""Opacus: per-sample gradients and private training, of our layers and of fused networks, beside torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from twins import CLASSES, images, twins

import lenet_ext


def out_of_place(model: torch.nn.Sequential) -> torch.nn.Sequential:
    """Opacus's hooks on modules make views, which no ReLU may write to."""
    for layer in model:
        if isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    return model


def test_per_sample_gradients() -> None:
    batch, results = images(6), []
    for model in map(out_of_place, twins()):
        wrapped = GradSampleModule(model)
        wrapped(batch).square().sum().backward()
        results.append({name: p.grad_sample for name, p in model.named_parameters()})
    assert {g.shape[0] for g in results[0].values()} == {6}
    torch.testing.assert_close(*results)


def train_privately(model: torch.nn.Sequential, data: TensorDataset, mode: str) -> list[Tensor]:
    """The parameters after an epoch of DP-SGD, with noise from a seed."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = torch.nn.CrossEntropyLoss()
    private = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=4),
        noise_multiplier=0.5,
        max_grad_norm=0.1,
        poisson_sampling=False,
        grad_sample_mode=mode,
        criterion=criterion,
        noise_generator=torch.Generator().manual_seed(1),
    )
    if mode == "ghost":
        module, optimizer, criterion, loader = private
    else:
        module, optimizer, loader = private
    for batch, labels in loader:
        optimizer.zero_grad()
        criterion(module(batch), labels).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ghost"])
def test_private_training(mode: str) -> None:
    data = TensorDataset(images(12), torch.arange(12) % CLASSES)
    ours, native = (train_privately(out_of_place(model), data, mode) for model in twins())
    torch.testing.assert_close(ours, native)


def test_expanded_weights_know_torch_functions_only() -> None:
    """The mode "ew" refuses our functions by name instead of computing something else."""
    data = TensorDataset(images(4), torch.arange(4) % CLASSES)
    with pytest.raises(RuntimeError, match="Expanded Weights encountered but cannot handle function conv2d"):
        train_privately(out_of_place(twins()[0]), data, "ew")


SHAPE = (2, 10, 10)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.GroupNorm(2, 8)),
        *(nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 5)),
    ).double()


def batch(count: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_per_sample_gradients_of_a_fused_network(reduction: str) -> None:
    """Those of GradSampleModule, which finds them by hooks on torch's layers."""
    x, targets = batch(19)
    loss, model = nn.CrossEntropyLoss(reduction=reduction), network()
    actual = lenet_ext.per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets, loss)
    wrapped = GradSampleModule(model, loss_reduction=reduction)
    loss(wrapped(x), targets).backward()
    expected = {name: p.grad_sample for name, p in model.named_parameters()}
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "groups": lambda parameters: torch.optim.SGD(
        [{"params": list(parameters)[4:], "lr": 0.5}, {"params": list(parameters)[:4]}], lr=0.1
    ),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_private_steps_of_a_fused_network(kind: str, reduction: str) -> None:
    """The numbers of DPOptimizer, with the noise of the same generator, over batches of many sizes."""
    models = [network(), network()]
    loss = nn.CrossEntropyLoss(reduction=reduction)
    optimizers = [OPTIMIZERS[kind](list(model.parameters())) for model in models]
    generators = [torch.Generator().manual_seed(7) for _ in models]
    step = lenet_ext.TrainStep(
        *(lenet_ext.fuse(models[0], batch(1)[0]), optimizers[0], loss),
        **{"max_sample_grad_norm": 0.5, "noise_multiplier": 1.1, "expected_batch_size": 16},
        generator=generators[0],
    )
    wrapped = GradSampleModule(models[1], loss_reduction=reduction)
    private = DPOptimizer(
        optimizers[1],
        noise_multiplier=1.1,
        max_grad_norm=0.5,
        expected_batch_size=16,
        loss_reduction=reduction,
        generator=generators[1],
    )
    for number, count in enumerate((16, 3, 20, 1, 33)):
        x, targets = batch(count, seed=number)
        private.zero_grad()
        expected = loss(wrapped(x), targets)
        expected.backward()
        private.step()
        torch.testing.assert_close(step(x, targets), expected.detach())
    torch.testing.assert_close(
        dict(models[0].named_parameters()), dict(models[1].named_parameters()), rtol=1e-9, atol=1e-11
    )
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_a_nan_is_treated_alike() -> None:
    """All parameters become NaN."""
    models = [network(), network()]
    x, targets = batch(5)
    x[2, 0, 3, 3] = torch.nan
    step = lenet_ext.TrainStep(
        lenet_ext.fuse(models[0], x[:1]),
        **{"max_sample_grad_norm": 0.5, "noise_multiplier": 1.1, "expected_batch_size": 5},
        lr=0.1,
    )
    wrapped = GradSampleModule(models[1])
    private = DPOptimizer(
        *(torch.optim.SGD(models[1].parameters(), lr=0.1),),
        noise_multiplier=1.1,
        max_grad_norm=0.5,
        expected_batch_size=5,
    )
    nn.CrossEntropyLoss()(wrapped(x), targets).backward()
    step(x, targets), private.step()
    for model in models:
        assert all(parameter.isnan().all() for parameter in model.parameters())


def test_the_example_counts_epsilon(tmp_path: Path) -> None:
    """By the accountant of Opacus."""
    program = Path(__file__).parents[2] / "examples" / "private_mnist.py"
    command = [sys.executable, str(program), "--quick"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"10 steps: test accuracy 0\.\d{3}\nepsilon 0\.866 at delta 0\.0001\n", finished.stdout
    )
