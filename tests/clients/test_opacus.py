"""Opacus: per-sample gradients and private training of our layers, beside those of torch.nn's."""

from __future__ import annotations

import pytest
import torch
from opacus import GradSampleModule, PrivacyEngine
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from twins import CLASSES, images, twins


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
