"""Activations with options, and prelu, at every place in a stage of the engine, beside layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import DTYPES
from strategies import normal
from torch import Tensor

from lenet_ext.engine.layers import Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d, PReLU
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import layer_by_layer, run

Placed = tuple[Layer, tuple[int, ...]]
CONV: Placed = (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 1), (0, 1))
POOL: Placed = (MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False), ())
# Windows of padding alone, whose maximum is -inf: there no activation may go before its pool.
SPARSE_POOL: Placed = (MaxPool2d((2, 2), (3, 3), (1, 1), (9, 9), True), ())
FLATTEN: Placed = (Flatten(), ())
LINEAR: Placed = (Linear(), (2, 3))
SIZES = (3, 2, 9, 11)  # of the images
SHAPES = [(4, 2, 3, 3), (4,), (5, 4 * 4 * 5), (5,)]

ACTIVATIONS = {
    "leaky_relu": (0.01,),
    "leaky_relu of slope 0": (0.0,),
    "leaky_relu of slope -0.5": (-0.5,),
    "elu": (1.0, 1.0, 1.0),
    "elu as selu": (1.6732632423543772, 1.0507009873554805, 1.0),
    "elu as celu": (1.5, 1.0, 1 / 1.5),
    "elu of alpha -0.7": (-0.7, 1.0, 1.0),
    "gelu": (),
    "gelu_tanh": (),
    "silu": (),
    "hardswish": (),
    "hardtanh": (-0.5, 0.75),
    "hardtanh as relu6": (0.0, 6.0),
    "sigmoid": (),
    "tanh": (),
    "softplus": (1.0, 20.0),
    "softplus of threshold 1": (1.5, 1.0),
    "hardsigmoid": (),
    "scale": (1 / 255, -0.5),
    "exp": (),
    "abs": (),
}
PLACES = [
    *("first", "after conv2d", "before the pool", "after the pool", "before a sparse pool", "twice"),
    "after linear",
]


def layers(place: str, activation: Placed) -> list[Placed]:
    return {
        "first": [activation, CONV],
        "after conv2d": [CONV, activation],
        "before the pool": [CONV, activation, POOL],
        "after the pool": [CONV, POOL, activation],
        "before a sparse pool": [CONV, activation, SPARSE_POOL],
        "twice": [CONV, activation, activation, POOL, activation],
        "after linear": [CONV, activation, POOL, FLATTEN, LINEAR, activation],
    }[place]


def assert_same(
    chain: list[Placed],
    tensors: list[Tensor],
    dtype: torch.dtype = torch.float64,
    sizes: tuple[int, ...] = SIZES,
) -> None:
    """Outputs and all gradients."""
    parameters = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    input = normal(sizes, dtype, 7).requires_grad_()
    program = Network.chain("test", *chain).program()
    outputs = [function(program, input, None, parameters)[0] for function in (run, layer_by_layer)]
    # hardsigmoid's slope is a float32 in torch.
    near: dict[str, Any] = (
        {"rtol": 1e-7, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    )
    torch.testing.assert_close(*outputs, **near)
    weights = normal(tuple(outputs[0].shape), dtype, 8)
    leaves = [input, *parameters]
    grads = [torch.autograd.grad(output, leaves, weights) for output in outputs]
    torch.testing.assert_close(*grads, **near)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str, place: str) -> None:
    chain = layers(place, (Activation(name.split()[0], ACTIVATIONS[name]), ()))
    scale = 0.01 if name == "exp" else 1  # which is applied up to three times
    tensors = [normal(shape, torch.float64, i) * scale for i, shape in enumerate(SHAPES)]
    assert_same(chain, tensors[: used(chain)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_activation_behind_another(name: str) -> None:
    first, *others = ((Activation(kind.split()[0], ACTIVATIONS[kind]), ()) for kind in (name, *ACTIVATIONS))
    for second in others:
        assert_same([first, second], [])
        assert_same([CONV, first, second], [0.1 * normal(shape, torch.float64, 0) for shape in SHAPES[:2]])


@pytest.mark.parametrize("weights", [1, "channels"])
@pytest.mark.parametrize("place", PLACES)
def test_prelu(place: str, weights: int | str) -> None:
    """The same weight wherever it stands, or one for each place."""
    chain = layers(place, (PReLU(), (-1,)))
    tensors = [normal(shape, torch.float64, i) for i, shape in enumerate(SHAPES)][: used(chain)]
    placed = []
    for i, (layer, own) in enumerate(chain):
        if isinstance(layer, PReLU):
            channels = {"first": 2, "after linear": 5 if i == len(chain) - 1 else 4}.get(place, 4)
            own = (len(tensors),)
            tensors.append(normal((1 if weights == 1 else channels,), torch.float64, 20 + i))
        placed.append((layer, own))
    assert_same(placed, tensors)


def used(chain: list[Placed]) -> int:
    return 1 + max(number for _, own in chain for number in own)


@pytest.mark.parametrize("features", [1, 3, 8, 15, 16, 17, 33])
def test_prelu_of_features(features: int) -> None:
    """Each feature is a channel of a single element; and one weight for all."""
    for count in (1, features):
        assert_same([(PReLU(), (0,))], [normal((count,), torch.float64, 3)], sizes=(21, features))


@pytest.mark.parametrize("sizes", [(5, 3), (2, 3, 5), (3, 1, 7, 5), (2, 17, 1, 1), (0, 3, 4, 4)])
def test_prelu_of_any_dimensions(sizes: tuple[int, ...]) -> None:
    assert_same([(PReLU(), (0,))], [normal((sizes[1],), torch.float64, 3)], sizes=sizes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_prelu_in_every_dtype(dtype: torch.dtype) -> None:
    assert_same(
        [CONV, (PReLU(), (2,))],
        [normal(shape, dtype, i) for i, shape in enumerate([*SHAPES[:2], (4,)])],
        dtype,
    )


def test_prelu_at_zero_and_nan() -> None:
    x = torch.tensor([[0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1.0, -1.0]], dtype=torch.float64)
    weight = torch.full((7,), 0.25, dtype=torch.float64)
    program = Network.chain("test", (PReLU(), (0,))).program()
    results = []
    for function in (run, layer_by_layer):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        output = function(program, leaves[0], None, leaves[1:])[0]
        results.append((output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(x))))
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


def test_prelu_is_the_same_for_every_number_of_threads(threads: None) -> None:
    input = normal((67, 5, 9, 11), torch.float32, 1).requires_grad_()
    weight = normal((5,), torch.float32, 2).requires_grad_()
    program = Network.chain("test", (PReLU(), (0,))).program()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        output = run(program, input, None, [weight])[0]
        results.append((output, *torch.autograd.grad(output.square().sum(), [input, weight])))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
