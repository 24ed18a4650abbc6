"""An ensemble beside its members alone, and what is compared of them: all bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from chains import Chain, captured
from graphs import Graph
from torch import Tensor, nn

from lenet_ext import FusedEnsemble, FusedNet, TrainStep
from lenet_ext.engine.capture import Captured, ImageSizes, Leaf, Mode, capture
from lenet_ext.engine.ensemble import _stacked
from lenet_ext.engine.fused import normalization_of

MEMBERS = 3


def members_of(model: nn.Module, count: int = MEMBERS) -> list[nn.Module]:
    """Copies of a model, each with other parameters and running statistics."""
    models = []
    for number in range(count):
        other = copy.deepcopy(model)
        for parameter in [*other.parameters(), *other.buffers()]:
            if parameter.dtype.is_floating_point:
                parameter.data *= 1 + number / 4
        models.append(other)
    return models


def together_and_alone(
    models: Sequence[nn.Module], known: Tensor | Captured, mean: float | None = None, std: float | None = None
) -> tuple[FusedEnsemble, list[FusedNet]]:
    """The ensemble of these, and each of them as a network. known: an example, or what was captured."""
    example = known if isinstance(known, Tensor) else torch.empty(0)
    found = capture(models[0], known) if isinstance(known, Tensor) else known
    normalization = normalization_of(mean, std, example)
    many = FusedEnsemble(len(models), _stacked(models[0], models), found, normalization)
    return many, [FusedNet(copy.deepcopy(model), found, normalization) for model in models]


def of_chain(chain: Chain, count: int = MEMBERS) -> tuple[FusedEnsemble, list[FusedNet]]:
    return together_and_alone(members_of(chain.model, count), captured(chain))


class GraphModule(nn.Module):
    """The first output of a graph, with all of its tensors."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.network, buffers = graph.network.first, graph.network.buffers
        for number, tensor in enumerate(graph.tensors()):
            if number in buffers:
                self.register_buffer(f"t{number}", tensor.detach())
            else:
                self.register_parameter(f"t{number}", nn.Parameter(tensor.detach()))
        self.counters = tuple(f"count{i}" for i in range(len(self.network.updated) // 2))
        for name in self.counters:
            self.register_buffer(name, torch.tensor(0))

    def captured(self, shape: tuple[int, ...]) -> Captured:
        names = tuple(f"t{number}" for number in range(len(self._parameters) + len(self._buffers)))
        names = tuple(name for name in names if name in self._parameters or name in self._buffers)
        mode = Mode(self.network, ImageSizes(shape), Leaf(0), self.counters)
        return Captured(names, (), (), {(): mode})


def of_graph(graph: Graph, count: int = MEMBERS) -> tuple[FusedEnsemble, list[FusedNet]]:
    module = GraphModule(graph)
    return together_and_alone(members_of(module, count), module.captured(graph.shape))


def assert_same(actual: Any, expected: Any) -> None:
    """All bits, apart from those of NaN."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def assert_members(many: FusedEnsemble, alone: Sequence[FusedNet]) -> None:
    """Parameters, running statistics and numbers of batches."""
    assert len(many) == len(alone)
    for number, network in enumerate(alone):
        assert_same(dict(many.member(number)), dict(network.state_dict()))


Optimizer = Callable[[nn.Module, int | None], torch.optim.Optimizer]


def steps_of(
    networks: tuple[FusedEnsemble, list[FusedNet]],
    optimizer: Optimizer,
    loss: Any = "cross_entropy",
    **options: Any,
) -> tuple[TrainStep, list[TrainStep]]:
    """optimizer: makes that of all members (None), and that of one."""
    many, alone = networks
    return TrainStep(many, optimizer(many, None), loss, **options), [
        TrainStep(network, optimizer(network, number), loss, **options)
        for number, network in enumerate(alone)
    ]


def assert_states(step: TrainStep, alone: Sequence[TrainStep]) -> None:
    """What the optimizers keep for the members; what only others keep is zero."""
    whole = step.optimizer.state_dict()["state"]
    for number, single in enumerate(alone):
        own = single.optimizer.state_dict()["state"]
        for key, state in whole.items():
            for name, tensor in state.items():
                expected = own.get(key, {}).get(name)
                actual = tensor[number] if tensor.dim() > 0 else tensor  # of a parameter that takes no step
                assert_same(actual, torch.zeros_like(actual) if expected is None else expected)
        assert own.keys() <= whole.keys()


def train_alone(
    step: TrainStep, images: Tensor, targets: Tensor, batch_size: int, order: Tensor | None, seeds: Tensor
) -> Tensor:
    """The losses of steps of a single network, one by one with these seeds for its dropout."""
    order = torch.arange(len(images)) if order is None else order
    losses = [images.new_empty(0, dtype=next(step.fused.parameters()).dtype)]
    for number, taken in enumerate(order.split(batch_size) if len(order) > 0 else ()):
        with patch("lenet_ext.engine.train_step.draw_seeds", lambda _, i=number: seeds[i : i + 1].clone()):
            losses.append(step(images[taken], targets[taken])[None])
    return torch.cat(losses)


def epochs_alike(
    steps: tuple[TrainStep, list[TrainStep]],
    images: Tensor,
    targets: Tensor,
    batch_size: int,
    orders: Tensor | Sequence[Tensor] | None = None,
    *,
    own: bool = False,
) -> None:
    """An epoch of the ensemble and the steps of each member alone: losses, members and states."""
    step, alone = steps
    members = range(len(alone))
    given: Sequence[Tensor | None] = [None] * len(alone) if orders is None else list(orders)
    count = images.shape[1 if own else 0]
    counts = [-(-(count if order is None else len(order)) // batch_size) for order in given]
    seeds = torch.randint(2**60, (len(alone), max(counts)))
    losses = step.epoch(images, targets, batch_size, orders, seeds=seeds)
    for k in members:
        data = (images[k], targets[k]) if own else (images, targets)
        assert_same(losses[k], train_alone(alone[k], *data, batch_size, given[k], seeds[k]))
    assert_members(step.fused, [single.fused for single in alone])
    assert_states(step, alone)


@contextmanager
def unchanged(step: TrainStep) -> Iterator[None]:
    before = copy.deepcopy((dict(step.fused.state_dict()), step.state_dict()["state"]))
    versions = [parameter._version for parameter in step.fused.parameters()]
    yield
    assert_same((dict(step.fused.state_dict()), step.state_dict()["state"]), before)
    assert versions == [parameter._version for parameter in step.fused.parameters()]
