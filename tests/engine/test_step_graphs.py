"""Which calls of a training step become CUDA graphs; the graphs themselves are stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from lenet_ext.engine.step_graphs import MOST_KINDS, WARM_UP_CALLS, StepGraphs


class Weight:
    """Trained by `step`, which counts how often Python runs it."""

    def __init__(self) -> None:
        self.value = torch.zeros(())
        self.lr = torch.zeros((), dtype=torch.float64)  # as a graph finds it: in a tensor
        self.calls = 0

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        if len(images) == 0:
            raise RuntimeError("the batch is empty")
        self.calls += 1
        loss = torch.zeros(())
        self.kernel = lambda: (
            loss.copy_((images * targets).sum() - self.value),
            self.value.add_(self.lr * loss),
        )
        self.kernel()
        return loss


@pytest.fixture
def weight(monkeypatch: pytest.MonkeyPatch) -> Weight:
    trained = Weight()

    class Graph:
        def replay(self) -> None:
            self.kernel()

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        before = trained.value.clone()
        yield
        trained.value.copy_(before)  # a capture runs nothing
        graph.kernel = trained.kernel

    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", capture)
    return trained


def batch(size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=generator), torch.rand(size, generator=generator)


def test_graphs_do_what_direct_calls_do(weight: Weight) -> None:
    """Batches of two sizes in turn, and a learning rate that changes."""
    graphs, direct = StepGraphs(torch.device("cpu")), Weight()
    losses = []
    for i in range(20):
        images, targets = batch(3 + i % 2, i)
        for one in (weight, direct):
            one.lr.fill_(0.1 / (1 + i // 4))
        losses.append(graphs.run(weight.step, len(images), images, targets))
        assert torch.equal(losses[-1], direct.step(images, targets))
    assert torch.equal(weight.value, direct.value)
    assert weight.calls == 2 * (WARM_UP_CALLS + 1)  # of each size, and while it is captured
    assert len({loss.data_ptr() for loss in losses}) == len(losses)  # each loss is kept


def test_a_call_that_raises_is_not_captured(weight: Weight) -> None:
    graphs = StepGraphs(torch.device("cpu"))
    for _ in range(2 * WARM_UP_CALLS):
        with pytest.raises(RuntimeError, match="the batch is empty"):
            graphs.run(weight.step, 0, *batch(0, 0))
    assert not graphs._kinds


def test_few_kinds_are_kept(weight: Weight) -> None:
    graphs = StepGraphs(torch.device("cpu"))
    for size in range(1, 3 * MOST_KINDS):
        graphs.run(weight.step, size, *batch(size, size))
    assert len(graphs._kinds) == MOST_KINDS


def test_what_a_graph_reads_may_be_written_in_any_mode(weight: Weight) -> None:
    """Also where it was captured in inference mode."""
    graphs = StepGraphs(torch.device("cpu"))
    with torch.inference_mode():
        for _ in range(WARM_UP_CALLS + 1):
            graphs.run(weight.step, 3, *batch(3, 0))
    graph = graphs._kinds[3]
    assert not isinstance(graph, int)
    assert not graph._images.is_inference()
    assert not graph._targets.is_inference()
