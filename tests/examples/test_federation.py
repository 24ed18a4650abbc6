"""The parts of examples/federated.py: how images are shared out, FedProx beside plain torch, the mean."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT
from torch import Tensor, nn

import lenet_ext

pytest.importorskip("numpy")
parts = runpy.run_path(str(ROOT / "examples" / "federation.py"))
split, proximal_sgd, move_centre, average = (
    parts[name] for name in ("split", "proximal_sgd", "move_centre", "average")
)

SHAPE, CLASSES = (1, 16, 16), 10
# Some clients have less than a batch, one a single image, one none.
SIZES, BATCH_SIZE = (9, 4, 1, 0, 17, 3), 4


@given(
    labels=st.lists(st.integers(0, 5), max_size=60),
    cuts=st.lists(st.integers(0, 20), max_size=8),
    concentration=st.sampled_from([1e-3, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_shares_images_out(labels: list[int], cuts: list[int], concentration: float, seed: int) -> None:
    """As many as wanted to each, none to two, also where the classes that a client favours run out."""
    given_labels = torch.tensor(labels, dtype=torch.int64)
    if sum(cuts) > len(labels):
        with pytest.raises(ValueError, match=f"sizes are of {sum(cuts)} images, there are {len(labels)}"):
            split(given_labels, cuts, concentration, seed)
        return
    clients = split(given_labels, cuts, concentration, seed)
    assert [len(own) for own in clients] == cuts
    every = torch.cat([torch.empty(0, dtype=torch.int64), *clients])
    assert every.dtype == torch.int64
    assert len(every.unique()) == len(every)
    assert all(0 <= number < len(labels) for number in every.tolist())
    again = split(given_labels, cuts, concentration, seed)
    assert all(map(torch.equal, clients, again))


def test_concentration_decides_how_alike_clients_are() -> None:
    """The largest share of a class: nearly all of a client's images, or about as among all."""
    labels = torch.arange(10_000) % 10
    shares = {}
    for concentration in (0.01, 1.0, 1e4):
        clients = split(labels, [50] * 100, concentration, 0)
        counts = torch.stack([labels[own].bincount(minlength=10) for own in clients])
        shares[concentration] = (counts.max(1).values / 50).mean().item()
    assert shares[0.01] > 0.9
    assert shares[0.01] > shares[1.0] > shares[1e4]
    assert shares[1e4] < 0.25  # of 50 images that are drawn alike


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(196, CLASSES),
    ).to(dtype)


def torch_client(
    model: nn.Module, images: Tensor, labels: Tensor, order: Tensor, lr: float, mu: float
) -> dict[str, Any]:
    """The state of a client after an epoch, with the term of FedProx written out in the loss."""
    model = copy.deepcopy(model).train()
    centre = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for batch in order.split(BATCH_SIZE) if len(order) else ():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        away = [(w - c).square().sum() for w, c in zip(model.parameters(), centre, strict=True)]
        (loss + mu / 2 * torch.stack(away).sum()).backward()
        optimizer.step()
    return model.state_dict()


def weighted_mean(states: Sequence[dict[str, Tensor]], weights: Sequence[int]) -> dict[str, Tensor]:
    """Element by element, in float64."""
    mean = {}
    for name, like in states[0].items():
        total = torch.zeros(like.shape, dtype=torch.float64)
        for state, weight in zip(states, weights, strict=True):
            total += weight * state[name].double()
        total /= sum(weights)
        mean[name] = total.to(like.dtype) if like.is_floating_point() else total.round().to(like.dtype)
    return mean


@pytest.mark.parametrize("mu", [0.0, 0.01, 1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounds_are_those_of_plain_torch(dtype: torch.dtype, mu: float) -> None:
    """Parameters and running statistics after each of three rounds, with clients of different sizes."""
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-4}[dtype]  # rounding grows from step to step
    generator, lr = torch.Generator().manual_seed(1), 0.1
    images = torch.randn(sum(SIZES), *SHAPE, dtype=torch.float64, generator=generator).to(dtype)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    clients = split(labels, SIZES, 0.5, 0)
    native = network(dtype)
    many = lenet_ext.fuse_ensemble(native, images[:1], copies=len(SIZES)).train()
    step = lenet_ext.TrainStep(many, proximal_sgd(many, lr, mu))
    for _ in range(3):
        orders = [own[torch.randperm(len(own), generator=generator)] for own in clients]
        states = [torch_client(native, images, labels, order, lr, mu) for order in orders]
        move_centre(step.optimizer)
        step.epoch(images, labels, BATCH_SIZE, orders)
        for k, state in enumerate(states):
            torch.testing.assert_close(dict(many.member(k)), dict(state), rtol=tolerance, atol=tolerance)
        average(many, torch.tensor(SIZES))
        native.load_state_dict(weighted_mean(states, SIZES))
        shared = many.member(0)
        torch.testing.assert_close(dict(shared), dict(native.state_dict()), rtol=tolerance, atol=tolerance)
        for k in range(1, len(SIZES)):
            assert all(map(torch.equal, many.member(k).values(), shared.values()))


def test_proximal_sgd_is_torchs_own_too() -> None:
    """torch's step on the same optimizer does the same: nothing rests on the engine."""
    torch.manual_seed(0)
    many = lenet_ext.fuse_ensemble(network(torch.float64), torch.randn(1, *SHAPE).double(), copies=2)
    optimizer = proximal_sgd(many, 0.1, 0.5)
    move_centre(optimizer)
    centre = [parameter.detach().clone() for parameter in many.parameters()]
    expected = [parameter.detach().clone() for parameter in many.parameters()]
    for _ in range(4):
        for w, c, parameter in zip(expected, centre, many.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            w -= 0.1 * (parameter.grad + 0.5 * (w - c))
        optimizer.step()
    torch.testing.assert_close(list(many.parameters()), list(map(nn.Parameter, expected)))
