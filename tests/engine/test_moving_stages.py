"""The engine's layers that move values or combine several: permute, pad, slice, add, mul, concat."""

from __future__ import annotations

import random

import pytest
import torch
from stages import check, engine_pass, one
from torch import Tensor

from lenet_ext.engine.layers import Activation, Add, Concat, Layer, Mul, Pad, Permute, Slice
from lenet_ext.engine.network import Network, Node

DTYPES = [torch.float32, torch.float64]


def some_sizes(choose: random.Random) -> list[int]:
    return [choose.choice([1, 2, 3, 5, 8, 16, 17, 20]) for _ in range(choose.randint(1, 4))]


def images(batch: int, sizes: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(sizes))
    return torch.randn(batch, *sizes, generator=generator, dtype=dtype)


def some_edges(choose: random.Random, sizes: list[int]) -> tuple[int, ...]:
    edges = []
    for size in sizes:
        begin = choose.randint(1 - size, 3)
        edges += [begin, choose.randint(max(1 - size - begin, 1 - size), 4)]
    return tuple(edges)


def some_layers(choose: random.Random, sizes: list[int]) -> list[Layer]:
    dim = choose.randrange(len(sizes))
    start = choose.randrange(sizes[dim])
    stop = choose.randint(start + 1, sizes[dim])
    return [
        Permute(tuple(choose.sample(range(len(sizes)), len(sizes)))),
        Pad(some_edges(choose, sizes), choose.choice([0.0, -1.5, torch.inf])),
        Slice(dim, start, stop, choose.choice([1, 1, 2, 3])),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_alone(dtype: torch.dtype) -> None:
    choose = random.Random(4)
    for _ in range(40):
        sizes = some_sizes(choose)
        x = images(choose.choice([1, 5]), sizes, dtype)
        for layer in some_layers(choose, sizes):
            results = check(one(layer), x)
            assert torch.equal(results.outputs[0], layer.apply(x))  # not a bit is changed


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_several_values(dtype: torch.dtype) -> None:
    """A sum, a product and parts side by side, of values with other readers, over many tiles."""
    choose = random.Random(5)
    for _ in range(25):
        sizes = some_sizes(choose)
        dim = choose.randrange(len(sizes))
        nodes = (
            Node(Activation("tanh"), (0,)),
            Node(Activation("sigmoid"), (0,)),
            Node(Add(choose.choice([1.0, -0.3])), (1, 2)),
            Node(Mul(), (3, 2)),
            Node(Concat(dim), (4, 1, 3)),
            Node(Activation("relu"), (5,)),
            Node(Slice(dim, 1, 3 * sizes[dim], 2), (6,)),
        )
        check(Network("Test", nodes, (7, 4)), images(choose.choice([1, 70]), sizes, dtype))


def test_one_value_twice() -> None:
    x = images(6, [3, 5])
    nodes = (
        Node(Activation("tanh"), (0,)),
        Node(Mul(), (1, 1)),
        Node(Add(2.0), (2, 2)),
        Node(Concat(0), (3, 3)),
    )
    check(Network("Test", nodes, (4,)), x)


def test_images_themselves_are_read_by_several() -> None:
    nodes = (Node(Permute((1, 0)), (0,)), Node(Permute((1, 0)), (1,)), Node(Add(1.0), (2, 0)))
    check(Network("Test", nodes, (3,)), images(5, [4, 7]))


def test_empty_batches_and_what_is_empty() -> None:
    for layer in (Permute((1, 0)), Pad((1, 1, 0, 2), 3.0), Slice(0, 1, 3, 1)):
        assert engine_pass(one(layer), images(0, [4, 5])).outputs[0].shape[0] == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Permute((0, 0)), "twice"),
        (Permute((0, 2)), "dimension"),
        (Pad((1, 1), 0.0), "padding"),
        (Pad((-3, -3, 0, 0), 0.0), "nothing"),
        (Slice(2, 0, 1, 1), "dimension"),
        (Slice(0, 0, 9, 1), "slice"),
        (Slice(0, 0, 2, 0), "slice"),
    ],
)
def test_refused(layer: Layer, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.lenet_ext.network(images(2, [4, 5]), [], one(layer).program(), None, None)
