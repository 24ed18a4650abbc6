"""Every activation of the engine, at every place in a stage, beside torch's own operator of that name."""

from __future__ import annotations

import pytest
import torch
from compare import DTYPES
from strategies import normal
from torch import Tensor

from lenet_ext.engine.layers import ACTIVATIONS, Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import layer_by_layer, run

CONV = (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 1), (0, 1))
POOL = (MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False), ())
# Windows of padding alone, whose maximum is -inf: there no activation may go before its pool.
SPARSE_POOL = (MaxPool2d((2, 2), (3, 3), (1, 1), (9, 9), True), ())
SIZES = (3, 2, 9, 11)  # of the images
EXACT = ("relu", "leaky_relu", "hardtanh", "abs")  # whose every value is one product at most
REALS = {
    "leaky_relu": (0.2,),
    "elu": (0.7, 1.5, 1.25),
    "hardtanh": (-0.5, 0.75),
    "softplus": (2.0, 3.0),
    "scale": (0.5, -1.25),
}


def native(kind: str, input: Tensor) -> Tensor:
    if kind == "scale":
        return input * REALS[kind][0] + REALS[kind][1]
    arguments = {"approximate": "tanh"} if kind == "gelu_tanh" else {}
    function = getattr(torch.ops.aten, "gelu" if kind == "gelu_tanh" else kind)
    output: Tensor = function(input, *REALS.get(kind, ()), **arguments)
    return output


def networks(kind: str) -> dict[str, list[tuple[Layer, tuple[int, ...]]]]:
    activation: tuple[Layer, tuple[int, ...]] = (Activation(kind, REALS.get(kind, ())), ())
    return {
        "first": [activation, CONV],
        "after conv2d": [CONV, activation],
        "before the pool": [CONV, activation, POOL],
        "after the pool": [CONV, POOL, activation],
        "before a sparse pool": [CONV, activation, SPARSE_POOL],
        "twice": [CONV, activation, activation, POOL, activation],
        "after linear": [CONV, activation, POOL, (Flatten(), ()), (Linear(), (2,)), activation],
    }


@pytest.mark.parametrize("place", networks("relu"))
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_engine_is_as_layer_by_layer(kind: str, place: str) -> None:
    layers = networks(kind)[place]
    shapes = [(4, 2, 3, 3), (4,), (5, 4 * 4 * 5)][: 3 if place == "after linear" else 2]
    scale = 0.01 if kind == "exp" else 1  # which is applied up to three times
    parameters = [
        (normal(shape, torch.float64, i) * scale).requires_grad_() for i, shape in enumerate(shapes)
    ]
    input = normal(SIZES, torch.float64, 7).requires_grad_()
    program = Network.chain("test", *layers).program()
    outputs = [function(program, input, None, parameters)[0] for function in (run, layer_by_layer)]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(
        *(torch.autograd.grad(output.square().sum(), [input, *parameters]) for output in outputs)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_function_is_torchs_for_special_values(kind: str, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e-7, -1e-7]).to(dtype)
    input = values.repeat(5).reshape(1, -1)  # more than a vector, and a part of one
    program = Network.chain("test", (Activation(kind, REALS.get(kind, ())), ())).program()
    ours = input.clone().requires_grad_()
    # One by one: for some of these numbers torch's vectors have other results than its single elements.
    alone = [value.reshape(1, 1).requires_grad_() for value in values.unbind()]
    output, expected = run(program, ours, None, ())[0], [native(kind, value) for value in alone]
    # A few of the last bits: both compute exponentials in ways of their own.
    tolerance = 0 if kind in EXACT else 4 * torch.finfo(dtype).eps
    wanted = torch.cat(expected, 1).repeat(1, 5).detach()
    torch.testing.assert_close(output, wanted, rtol=tolerance, atol=0, equal_nan=True)
    gradients = [torch.autograd.grad(result, value)[0] for result, value in zip(expected, alone, strict=True)]
    (grad,) = torch.autograd.grad(output.sum(), ours)
    if kind == "hardsigmoid":  # whose slope is a float32 in torch
        tolerance = max(tolerance, 1e-7)
    # torch has a slope of 1 for hardswish of a single NaN.
    kept = ~(input.isnan() & torch.tensor(kind == "hardswish"))
    torch.testing.assert_close(
        grad[kept], torch.cat(gradients, 1).repeat(1, 5)[kept], rtol=tolerance, atol=0, equal_nan=True
    )
