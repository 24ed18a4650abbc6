"""Flower: its simulation with clients of plain torch, beside the same rounds as one ensemble."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lenet_ext
from benchmarks.federated_engines import Federation, State, run_ours, run_torch, split
from benchmarks.flower_engine import run_flower
from lenet_ext.training.data import Normalization
from lenet_ext.training.digits import read_digits

# Some clients have less than a batch of images, one has a single one.
SIZES, BATCH_SIZE, LR, ROUNDS = (150, 90, 33, 32, 7, 1, 200, 64), 8, 0.02, 3
Rounds = list[dict[str, Tensor]]


@pytest.fixture(autouse=True)
def processes_find_what_this_one_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray looks into the current folder first, where the package may be without its compiled module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)


def collected(run: Callable[..., None], federation: Federation, **options: int) -> Rounds:
    """The shared network after each round."""
    states: Rounds = []

    def take(number: int, seconds: float, shared: State) -> None:
        assert number == len(states) + 1
        assert seconds > 0
        states.append({name: tensor.clone() for name, tensor in shared.items()})

    run(federation, take, **options)
    assert len(states) == ROUNDS
    return states


def right(federation: Federation, state: State, images: Tensor, labels: Tensor) -> int:
    """How many images the shared network predicts right."""
    model = deepcopy(federation.model)
    model.load_state_dict(state)
    with torch.inference_mode():
        return int((model(images).argmax(1) == labels).sum())


@pytest.mark.parametrize(
    ("dtype", "mu"), [(torch.float64, 0.0), (torch.float64, 0.5), (torch.float32, 0.0)], ids=str
)
def test_rounds_are_those_of_flower(dtype: torch.dtype, mu: float) -> None:
    """FedAvg and FedProx on real digits: after each round parameters within rounding, equal accuracies."""
    torch.manual_seed(0)
    data = read_digits()
    normalize = Normalization.of(data.train.images)
    images, tests = (normalize(part.images).to(dtype) for part in (data.train, data.test))
    model = lenet_ext.LeNet(in_channels=1, layers=nn).to(dtype)
    clients = split(data.train.labels, SIZES, 0.3, 0)
    federation = Federation(model, images, data.train.labels, clients, BATCH_SIZE, LR, ROUNDS, mu)
    flower = collected(run_flower, federation, processes=2)
    # Rounding grows from step to step, and with a learning rate of 0.1 to what decides about images.
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5}[dtype]
    for run in (run_ours, run_torch):
        for ours, theirs in zip(collected(run, federation), flower, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
            one, other = (right(federation, state, tests, data.test.labels) for state in (ours, theirs))
            assert one == other
    assert right(federation, flower[-1], tests, data.test.labels) > len(tests) / 5  # it has learned


def test_failed_clients_are_named() -> None:
    """Flower's FedAvg goes on with the clients that are left; the comparison does not."""
    images, labels = torch.randn(6, 1, 16, 16), torch.randint(10, (6,))
    model = lenet_ext.LeNet(in_channels=1, image_size=16, layers=nn)
    federation = Federation(model, images, labels, [torch.arange(3), torch.arange(3, 6)], 2, 0.1, 1)
    wrong = replace(federation, clients=[torch.arange(3), torch.tensor([9])])
    with pytest.raises(RuntimeError, match="1 clients failed"):
        run_flower(wrong, lambda *_: None, processes=1)
