"""Training steps that need all gradients before the first parameter changes: clipping, shared parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import EXAMPLES, IMAGES, LABELS, assert_alike, optimizer_of
from test_train_step import Native, assert_relative, fuse, network, weights
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep


class Clipped(Native):
    """torch's step with clipping."""

    max_norm: float = 1.0

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), targets)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, self.max_norm)
        self.optimizer.step()
        return loss.detach()


def clipped_twins(
    kind: str, max_norm: float, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[TrainStep, Clipped]:
    model = network().to(dtype)
    native = Clipped(copy.deepcopy(model))
    native.optimizer, native.max_norm = optimizer_of(kind, native.model, **options), max_norm
    step = TrainStep(fuse(model), optimizer_of(kind, model, **options), max_grad_norm=max_norm)
    return step, native


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 0.5, 1e3, float("inf")])
def test_clipping(kind: str, max_norm: float) -> None:
    """Of gradients that are longer, and of some that are not."""
    step, native = clipped_twins(kind, max_norm, **EXAMPLES[kind])
    for size in (9, 1, 4):
        images, labels = IMAGES[:size], LABELS[:size]
        assert_relative(step(images, labels), native(images, labels), 1e-10)
    assert_alike(step, native, 1e-9)


def test_an_integer_is_a_norm_too() -> None:
    step, native = clipped_twins("SGD", 1, lr=0.1)
    for _ in range(2):
        step(IMAGES * 30, LABELS), native(IMAGES * 30, LABELS)
    assert_alike(step, native)


def test_what_is_not_trained_counts_not() -> None:
    step, native = clipped_twins("SGD", 0.01, lr=0.1)
    for module in (step.fused, native.model):
        module.get_submodule("6").requires_grad_(False)
    for _ in range(2):
        assert_relative(step(IMAGES, LABELS), native(IMAGES, LABELS), 1e-11)
    assert_alike(step, native)


def test_large_float32_gradients() -> None:
    """The squares would overflow in float32: the norm is summed up in double."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    step = TrainStep(lenet_ext.fuse(model, torch.zeros(1, 2)), lr=1.0, loss="mse", max_grad_norm=1.0)
    before = weights(model)[0]
    step(torch.tensor([[3e12, 4e12]]), torch.tensor([[1e12]]))
    moved = (weights(model)[0] - before).double()
    assert abs(torch.linalg.vector_norm(moved) - 1) < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_no_numbers(bad: float) -> None:
    step, native = clipped_twins("SGD", 0.5, lr=0.1)
    images = IMAGES.clone()
    images[0, 0, 0, 0] = bad
    for one in (step, native):
        one(images, LABELS)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert torch.equal(actual.isnan(), expected.isnan())


def test_clipping_in_16_bits() -> None:
    step, native = clipped_twins("SGD", 0.05, torch.bfloat16, lr=0.5)
    wide = Clipped(copy.deepcopy(native.model).float(), lr=0.5)
    wide.max_norm = 0.05
    images = IMAGES.bfloat16()
    step(images, LABELS), wide(images.float(), LABELS)
    for actual, expected in zip(weights(step), weights(wide.model), strict=True):
        assert_relative(actual.float(), expected, 2**-8)


def test_epochs_and_threads() -> None:
    """An epoch is its steps, with the same bits for every number of threads; the network is wide enough for
    several blocks of the norm.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(64, 300), torch.arange(64) % 10
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3, 0):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
        step = TrainStep(
            lenet_ext.fuse(model, images), torch.optim.Adam(model.parameters()), max_grad_norm=0.1
        )
        if threads > 0:
            torch.set_num_threads(threads)
            step.epoch(images, labels, 32)
            torch.set_num_threads(before)
        else:
            for part in torch.arange(64).split(32):
                step(images[part], labels[part])
        results.append(weights(model))
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.parametrize(
    ("bad", "error"), [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)]
)
def test_bad_norms_are_refused(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_grad_norm must be"):
        TrainStep(fuse(network()), lr=0.1, max_grad_norm=bad)


def one_module_twice() -> nn.Sequential:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.ReLU(), shared)


def tied_weights() -> nn.Sequential:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[4].weight = tied[0].weight
    return tied


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("make", [one_module_twice, tied_weights])
@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_shared_parameters(make: Callable[[], nn.Module], kind: str, max_norm: float | None) -> None:
    """Both gradients are added up for one update; there is one state, and one step is counted."""
    torch.manual_seed(0)
    images, labels = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 4
    model = make().double()
    native = Clipped(copy.deepcopy(model))
    native.optimizer = optimizer_of(kind, native.model, **EXAMPLES[kind])
    native.max_norm = 1e30 if max_norm is None else max_norm
    optimizer = optimizer_of(kind, model, **EXAMPLES[kind])
    step = TrainStep(lenet_ext.fuse(model, images), optimizer, max_grad_norm=max_norm)
    for _ in range(2):
        for part in torch.arange(9).split(3):
            assert_relative(step(images[part], labels[part]), native(images[part], labels[part]), 1e-10)
        step.epoch(images, labels, 3)
        for part in torch.arange(9).split(3):
            native(images[part], labels[part])
        assert_alike(step, native, 1e-9)


def test_shared_parameters_frozen() -> None:
    model = tied_weights()
    step = TrainStep(lenet_ext.fuse(model, torch.zeros(1, 4)), lr=0.1)
    model[0].weight.requires_grad_(False)
    before = weights(model)
    loss = step(torch.randn(5, 4), torch.arange(5) % 4)
    assert loss > 0
    changed = [not torch.equal(*pair) for pair in zip(before, weights(model), strict=True)]
    assert changed == [False, True, True, True, True]


def test_two_parameters_of_one_memory_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    step = TrainStep(lenet_ext.fuse(model, torch.zeros(1, 4)), lr=0.1)
    with pytest.raises(RuntimeError, match="two parameters share their memory"):
        step(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
