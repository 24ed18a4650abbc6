"""TrainStep of an ensemble: the bits of each member are those of its network trained alone."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from chains import Chain, chains
from ensembles import (
    MEMBERS,
    assert_members,
    assert_same,
    assert_states,
    epochs_alike,
    members_of,
    of_chain,
    of_graph,
    steps_of,
    together_and_alone,
)
from graphs import Graph, graphs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, images
from strategies import normal
from torch import Tensor, nn

from lenet_ext import FusedEnsemble, FusedNet, TrainStep, fuse_ensemble
from lenet_ext.engine.layers import BatchNorm

Pair = tuple[FusedEnsemble, list[FusedNet]]
SHAPE = (2, 6, 5)


def momentum_sgd(network: nn.Module, _: int | None) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)


def adam(network: nn.Module, _: int | None) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=0.01, amsgrad=True)


def network() -> nn.Sequential:
    layers = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(36, 4))


@cache
def _pair() -> Pair:
    return together_and_alone(members_of(network()), normal((4, *SHAPE), torch.float32, 0))


def pair() -> Pair:
    return copy.deepcopy(_pair())


def data(*lead: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    labels = torch.randint(4, lead, generator=torch.Generator().manual_seed(1))
    return normal((*lead, *SHAPE), dtype, 3), labels


@st.composite
def orders(draw: st.DrawFn, count: int, batch_size: int, least: int) -> list[Tensor] | None:
    """Of every member; batches have `least` images at least."""
    if draw(st.booleans()):
        return None if count % batch_size == 0 or count % batch_size >= least else [torch.arange(0)] * MEMBERS
    found = []
    for _ in range(MEMBERS):
        length = draw(st.sampled_from([0, 1, 2, count, 2 * count])) if count > 0 else 0
        length -= length % batch_size if length % batch_size < least else 0
        numbers = [draw(st.integers(0, count - 1)) for _ in range(length)]
        found.append(torch.tensor(numbers, dtype=torch.int64))
    return found


@settings(max_examples=60)
@given(st.data(), chains(), st.booleans(), st.sampled_from([momentum_sgd, adam]), st.sampled_from([1, 2, 16]))
def test_chains(drawn: st.DataObject, chain: Chain, own: bool, optimizer: Any, batch_size: int) -> None:
    networks = of_chain(chain)
    assume(any(True for _ in networks[0].parameters()))
    x = normal((*([MEMBERS] if own else []), *chain.shape), torch.float32, 1)
    targets = normal(tuple(networks[0](x).shape[0 if own else 1 :]), torch.float32, 2)
    steps = steps_of(networks, optimizer, "mse", max_grad_norm=drawn.draw(st.sampled_from([None, 0.1])))
    order = drawn.draw(orders(chain.shape[0], batch_size, 1))
    for _ in range(2):
        epochs_alike(steps, x, targets, batch_size, order, own=own)


@settings(max_examples=60)
@given(st.data(), graphs(), st.booleans(), st.sampled_from([momentum_sgd, adam]), st.sampled_from([2, 3, 16]))
def test_graphs(drawn: st.DataObject, graph: Graph, own: bool, optimizer: Any, batch_size: int) -> None:
    """With dropout and batch norm, branches, tied parameters and parameters without a part."""
    networks, norm = of_graph(graph), any(isinstance(node.layer, BatchNorm) for node in graph.nodes)
    assume(any(True for _ in networks[0].parameters()))
    x = graph.images(MEMBERS * graph.batch).unflatten(0, (MEMBERS, graph.batch))
    x = x if own else x[0]
    order = drawn.draw(orders(graph.batch, batch_size, 2 if norm else 1))
    with torch.no_grad():
        targets = torch.rand_like(copy.deepcopy(networks[0]).requires_grad_(False)(x))
    steps = steps_of(networks, optimizer, "mse", max_grad_norm=drawn.draw(st.sampled_from([None, 0.1])))
    for _ in range(2):
        epochs_alike(steps, x, targets if own else targets[0], batch_size, order, own=own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dtypes_and_modes(dtype: torch.dtype, training: bool) -> None:
    networks = pair()
    for one in (networks[0], *networks[1]):
        one.to(dtype).train(training)
    x, labels = data(9)
    epochs_alike(steps_of(networks, adam), x.to(dtype), labels, 3)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_bytes(own: bool) -> None:
    networks = together_and_alone(members_of(network()), data(4)[0], mean=0.4, std=0.3)
    shape = (MEMBERS, 8) if own else (8,)
    x = torch.randint(256, (*shape, *SHAPE), dtype=torch.uint8)
    steps = steps_of(networks, momentum_sgd)
    epochs_alike(steps, x, torch.randint(4, shape), 4, own=own)
    assert steps[0](x, torch.randint(4, shape)).dtype == torch.float32


@pytest.mark.parametrize("name", ["batch norm, cumulative", "batch norm first, twice", "shared weights"])
def test_networks(name: str) -> None:
    example = NETWORKS[name]
    x = images(example, 10)
    networks = together_and_alone(members_of(example.build().double()), x)
    targets = torch.rand_like(copy.deepcopy(networks[1][0])(x))
    epochs_alike(steps_of(networks, momentum_sgd, "mse"), x, targets, 5, torch.randint(10, (MEMBERS, 15)))


def test_frozen_parameters() -> None:
    """Before the first step, and between two."""
    networks = pair()
    steps = steps_of(networks, momentum_sgd)
    for name in ("0.weight", "5.bias", "0.weight"):
        for one in (networks[0], *networks[1]):
            one.get_parameter(name).requires_grad_(not one.get_parameter(name).requires_grad)
        parameter = networks[0].get_parameter(name)
        before = parameter.detach().clone()
        epochs_alike(steps, *data(8), 4)
        assert torch.equal(before, parameter) != parameter.requires_grad


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_an_epoch_is_its_steps(own: bool) -> None:
    """With the seeds that are drawn, one for each member; of one member those of a single network."""
    lead = (MEMBERS, 6) if own else (6,)
    x, labels = data(*lead)
    first, second = (steps_of(pair(), adam)[0] for _ in range(2))
    torch.manual_seed(4)
    losses = first.epoch(x, labels, 2)
    torch.manual_seed(4)
    parts = zip(x.split(2, dim=len(lead) - 1), labels.split(2, dim=len(lead) - 1), strict=True)
    assert_same(losses, torch.stack([second(*part) for part in parts], dim=1))
    assert_same(dict(first.fused.state_dict()), dict(second.fused.state_dict()))
    assert_same(first.state_dict()["state"], second.state_dict()["state"])
    singles = together_and_alone(members_of(network(), 1), x[0] if own else x)
    steps = steps_of(singles, adam)
    results = []
    for step in (steps[0], *steps[1]):
        torch.manual_seed(5)
        batch = (x[:1], labels[:1]) if own and step is steps[0] else (x[0], labels[0]) if own else (x, labels)
        results.append((step(*batch).flatten(), step.epoch(*batch, 4).flatten()))
    assert_same(*results)


def test_a_member_that_becomes_nan() -> None:
    """It is told by its losses, and changes no other."""
    networks, (x, labels) = pair(), data(MEMBERS, 8)
    x[1, 5, 0, 0, 0] = float("nan")
    steps = steps_of(networks, momentum_sgd)
    epochs_alike(steps, x, labels, 4, own=True)
    losses = steps[0](x, labels)
    assert losses.isnan().tolist() == [False, True, False]
    for number in (0, 2):
        assert all(tensor.isfinite().all() for tensor in steps[0].fused.member(number).values())


def test_a_step_of_a_member_that_has_no_loss() -> None:
    """It changes nothing of this member, and is not counted; the member goes on with the next."""
    x, targets = torch.rand(6, 3), torch.rand(6, 2)
    many = fuse_ensemble(nn.Sequential(nn.Linear(3, 2)), x, copies=2)
    with torch.no_grad():
        for parameter in many.parameters():
            parameter.fill_(0.1)
    step = TrainStep(many, torch.optim.Adam(many.parameters(), lr=1e-3), nn.BCELoss())
    x = torch.stack([x, x])
    x[1, 2:4] = -100.0  # outputs below 0
    twin = copy.deepcopy(step)
    losses = step.epoch(x, torch.stack([targets, targets]), 2)
    assert losses.isnan().tolist() == [[False] * 3, [False, True, False]]
    assert all(state["step"].tolist() == [3, 2] for state in step.optimizer.state.values())
    rest = [torch.tensor([0, 1]), torch.tensor([0, 1, 4, 5])]
    twin.epoch(x, torch.stack([targets, targets]), 2, [torch.arange(6), rest[1]])
    assert_same(dict(step.fused.state_dict()), dict(twin.fused.state_dict()))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads(count: int) -> None:
    """More threads than members, and fewer; a batch of many images, which threads may share."""
    x, labels = data(70)
    made, results = together_and_alone(members_of(network(), count), x)[0], []
    order = [torch.randperm(70)[: 70 - 20 * (number % 3)] for number in range(count)]
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        networks = copy.deepcopy(made)
        step = TrainStep(networks, lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        losses = step.epoch(x, labels, 35, order)
        with torch.no_grad():
            results.append((losses, networks.eval()(x), dict(networks.state_dict())))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_no_member() -> None:
    """Whatever the optimizer is, and whatever its options are."""
    x, labels = data(5)
    many, none = fuse_ensemble(network(), x, copies=0), torch.empty(0)
    order = torch.empty(0, 3, dtype=torch.int64)
    for step in (
        TrainStep(many, lr=0.1, momentum=0.9, dampening=0.1),
        TrainStep(many, lr=none, momentum=none, weight_decay=none),
        TrainStep(many, torch.optim.Adam(many.parameters())),
    ):
        assert step(x, labels).shape == (0,)
        assert step.epoch(x, labels, 2).shape == step.epoch(x, labels, 2, order).shape == (0, 0)
        assert step.epoch(x, labels, 2, []) == []
        assert step(x[None][:0], labels[None][:0]).shape == (0,)
    assert_members(many, [])
    assert_states(step, [])
