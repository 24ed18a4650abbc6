"""A federation of clients, and its rounds in the fused engine and in plain torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

import lenet_ext
from lenet_ext.training.data import derived_seed, shuffled_batches

# What an example shows is what is measured.
sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from federation import average, move_centre, proximal_sgd, split

__all__ = ["AfterRound", "Federation", "State", "run_ours", "run_torch", "split", "train_client"]

State: TypeAlias = Mapping[str, Tensor]
# Is given the number of a round, from 1, its seconds and the shared parameters and buffers after it.
AfterRound: TypeAlias = Callable[[int, float, State], None]


@dataclass(frozen=True)
class Federation:
    """Who trains on what, and how: all that decides the shared network after each round, but for rounding.

    model: the shared network at first, of torch.nn's layers. images (N, ...), labels (N,): of all clients;
    clients: the numbers of each one's own. In a round each client takes one epoch over them, by SGD on the
    mean cross entropy of batches plus mu / 2 * |w - shared w|^2.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    clients: list[Tensor]
    batch_size: int
    lr: float
    rounds: int
    mu: float = 0.0
    seed: int = 0

    def batches(self, client: int, number: int) -> Iterator[Tensor]:
        """The images of a client's batches in a round."""
        own, seed = self.clients[client], derived_seed(self.seed, client)
        for batch in shuffled_batches(len(own), self.batch_size, seed, number):
            yield own[batch]


def train_client(federation: Federation, client: int, number: int, shared: State) -> nn.Module:
    """The network of a client after a round, by plain torch."""
    model = deepcopy(federation.model)
    model.load_state_dict(shared)
    centre = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), federation.lr)
    for batch in federation.batches(client, number):
        optimizer.zero_grad()
        logits = model(federation.images[batch])
        loss = nn.functional.cross_entropy(logits, federation.labels[batch])
        if federation.mu:
            pairs = zip(model.parameters(), centre, strict=True)
            loss = loss + federation.mu / 2 * sum((w - c).square().sum() for w, c in pairs)
        loss.backward()
        optimizer.step()
    return model


def run_torch(federation: Federation, after_round: AfterRound) -> None:
    """The clients one after the other, by plain torch on one thread, as a process of Flower's has."""
    threads, shared = torch.get_num_threads(), dict(federation.model.state_dict())
    total = sum(map(len, federation.clients))
    torch.set_num_threads(1)
    try:
        for number in range(1, federation.rounds + 1):
            began = time.perf_counter()
            sums = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
            for client, own in enumerate(federation.clients):
                for name, tensor in train_client(federation, client, number, shared).state_dict().items():
                    sums[name] += tensor * (len(own) / total)
            shared = sums
            after_round(number, time.perf_counter() - began, shared)
    finally:
        torch.set_num_threads(threads)


def run_ours(federation: Federation, after_round: AfterRound) -> None:
    """All clients as members of an ensemble, in one call a round."""
    members = len(federation.clients)
    many = lenet_ext.fuse_ensemble(federation.model, federation.images[:1], copies=members)
    step = lenet_ext.TrainStep(many, proximal_sgd(many, federation.lr, federation.mu))
    weights = torch.tensor([len(own) for own in federation.clients])
    for number in range(1, federation.rounds + 1):
        began = time.perf_counter()
        move_centre(step.optimizer)
        orders = [torch.cat(list(federation.batches(client, number))) for client in range(members)]
        data = (federation.images, federation.labels)
        step.epoch(*data, federation.batch_size, orders)
        average(many, weights)
        shared = many.member(0)
        after_round(number, time.perf_counter() - began, shared)
