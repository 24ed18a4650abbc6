"""Graphs of layers of all kinds in the engine, drawn by hypothesis, beside native torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from graphs import Graph, graphs, native
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lenet_ext.engine.operators import Statistics, run

# Of the largest value of a tensor, and of the largest of all results.
TOLERANCE, SLACK = 1e-9, 1e-11
# Where native torch's results move by more than that for inputs that are changed in the last bits, it lies
# at a kink, at a tie or at a difference of equal values.
NOISE = 1e-13


class State(NamedTuple):
    """What a network has between two calls."""

    tensors: list[Tensor]
    counts: list[Tensor]

    @classmethod
    def of(cls, graph: Graph) -> State:
        return cls(graph.tensors(), [torch.zeros((), dtype=torch.int64) for _ in range(graph.counts)])

    def copy(self) -> State:
        copies = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in self.tensors]
        return State(copies, [count.clone() for count in self.counts])

    def changed(self, factor: float) -> State:
        """A copy with other parameters, as after a step of an optimizer."""
        copy = self.copy()
        with torch.no_grad():
            for tensor in copy.tensors:
                if tensor.requires_grad:
                    tensor.mul_(factor)
        return copy


Forward = Callable[[Graph, Tensor, State, Tensor], Sequence[Tensor]]


def by_torch(graph: Graph, x: Tensor, state: State, seed: Tensor) -> Sequence[Tensor]:
    return native(graph, x, state.tensors, seed, state.counts)


def by_engine(graph: Graph, x: Tensor, state: State, seed: Tensor) -> Sequence[Tensor]:
    network = graph.network
    counts = [state.counts[number] for number in graph.norms]
    statistics = Statistics(state.tensors, network.updated, counts) if counts else None
    return run(network.program(), x, None, state.tensors, seed if network.is_random else None, statistics)


def results(forward: Forward, graph: Graph, x: Tensor, state: State, seed: Tensor) -> list[Tensor]:
    """The outputs, the gradients of the images and the parameters, and the running statistics after it."""
    x = x.clone().requires_grad_()
    outputs = forward(graph, x, state, seed)
    generator = torch.Generator().manual_seed(graph.seed + 2)
    weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    inputs = [x, *(tensor for tensor in state.tensors if tensor.requires_grad)]
    total = sum((y * weight).sum() for y, weight in zip(outputs, weights, strict=True))
    grads = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    buffers = [tensor for tensor in state.tensors if not tensor.requires_grad]
    return [*(y.detach() for y in outputs), *grads, *buffers, *(count.double() for count in state.counts)]


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def differences(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> list[str]:
    top, found = max(map(largest, expected)), []
    for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert one.shape == other.shape
        error = largest(one - other)
        if not error <= TOLERANCE * largest(other) + SLACK * top:
            found.append(f"result {number} of {tuple(other.shape)}: {error:.2e} of {largest(other):.2e}")
    return found


def check(graph: Graph, x: Tensor, state: State, seed: Tensor) -> State:
    """Compares a call; the state after it."""
    theirs, ours = state.copy(), state.copy()
    expected = results(by_torch, graph, x, theirs, seed)
    found = differences(results(by_engine, graph, x, ours, seed), expected)
    if found:
        moved = state.copy()
        with torch.no_grad():
            for tensor in moved.tensors:
                tensor.mul_(1 + NOISE * torch.randn_like(tensor))
        noisy = x * (1 + NOISE * torch.randn_like(x))
        stable = not differences(results(by_torch, graph, noisy, moved, seed), expected)
        assert not stable, "\n".join([*found, graph.network.program()])
    return theirs


@settings(max_examples=120)
@given(graphs(), st.sampled_from([2, 5, 34]))
def test_as_native_torch(graph: Graph, other_batch: int) -> None:
    """In calls one after the other, whose parameters and numbers of images change."""
    state = State.of(graph)
    for number, batch in enumerate((graph.batch, other_batch, graph.batch)):
        seed = torch.tensor([graph.seed + number])
        state = check(graph, graph.images(batch), state, seed).changed(0.9)


@settings(max_examples=60)
@given(graphs())
def test_forward_is_that_of_inference(graph: Graph) -> None:
    x, seed, state = graph.images(graph.batch), torch.tensor([graph.seed]), State.of(graph)
    training, inference = state.copy(), state.copy()
    expected = by_engine(graph, x, training, seed)
    with torch.no_grad():
        actual = by_engine(graph, x, inference, seed)
    assert all(map(torch.equal, actual, expected))
    for one, other in zip([*inference.tensors, *inference.counts], [*training.tensors, *training.counts],
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)


@pytest.mark.usefixtures("threads")
@settings(max_examples=50)
@given(graphs(), st.sampled_from([33, 70]))
def test_threads(graph: Graph, batch: int) -> None:
    """Bitwise the same for every number of threads."""
    x, seed, found = graph.images(batch), torch.tensor([graph.seed]), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(results(by_engine, graph, x, State.of(graph), seed))
    assert all(map(torch.equal, *found))


@settings(max_examples=30)
@given(graphs(most_layers=7))
def test_parts_of_the_gradients(graph: Graph) -> None:
    """Of the images alone, of the parameters alone: the same bits as of all."""
    x, seed, state = graph.images(graph.batch), torch.tensor([graph.seed]), State.of(graph)
    trained = [tensor for tensor in state.tensors if tensor.requires_grad]
    parts = []
    for of_images, of_parameters in ((True, True), (True, False), (False, True)):
        own = state.copy()
        for tensor, original in zip(own.tensors, state.tensors, strict=True):
            tensor.requires_grad_(of_parameters and original.requires_grad)
        inputs = [x.clone().requires_grad_()] if of_images else []
        inputs += [tensor for tensor in own.tensors if tensor.requires_grad]
        if not inputs:
            return
        outputs = by_engine(graph, inputs[0] if of_images else x, own, seed)
        total = sum(y.square().sum() for y in outputs)
        grads = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        parts.append((list(grads[:of_images]), list(grads[of_images:])))
    (image, parameters), (image_alone, _), (_, parameters_alone) = parts
    assert len(parameters) == len(trained)
    assert all(map(torch.equal, image_alone, image))
    assert all(map(torch.equal, parameters_alone, parameters))
