"""The engine's activations through their internal operators, beside torch's functions and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from compare import DTYPES
from strategies import LAYOUTS, laid_out, normal
from torch import Tensor

import lenet_ext

operators = torch.ops.lenet_ext
SIZES = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 1024 * 16 + 5]


class Case(NamedTuple):
    name: str
    options: tuple[float, ...]
    function: Callable[[Tensor], Tensor]
    from_output: bool = False  # whether the gradient takes the output

    def gradient(self, grad_output: Tensor, x: Tensor) -> Tensor:
        saved = operators.activation(x, self.name, self.options) if self.from_output else x
        return operators.activation_grad(grad_output, saved, self.name, self.options)


def celu(alpha: float) -> tuple[float, float, float]:
    return alpha, 1.0, 1 / alpha


SELU = (1.6732632423543772, 1.0507009873554805, 1.0)
CASES = {
    "relu": Case("relu", (), F.relu, True),
    "leaky_relu": Case("leaky_relu", (0.01,), lambda x: F.leaky_relu(x, 0.01), True),
    "leaky_relu of slope 0": Case("leaky_relu", (0.0,), lambda x: F.leaky_relu(x, 0.0), True),
    "leaky_relu of slope -0.5": Case("leaky_relu", (-0.5,), lambda x: F.leaky_relu(x, -0.5)),
    "elu": Case("elu", (1.0, 1.0, 1.0), F.elu, True),
    "elu of alpha 0": Case("elu", (0.0, 1.0, 1.0), lambda x: F.elu(x, 0.0), True),
    "elu of alpha -0.7": Case("elu", (-0.7, 1.0, 1.0), lambda x: F.elu(x, -0.7)),
    "selu": Case("elu", SELU, F.selu, True),
    "celu": Case("elu", celu(1.5), lambda x: F.celu(x, 1.5), True),
    "celu of alpha -2": Case("elu", celu(-2.0), lambda x: F.celu(x, -2.0)),
    "gelu": Case("gelu", (), F.gelu),
    "gelu_tanh": Case("gelu_tanh", (), lambda x: F.gelu(x, approximate="tanh")),
    "silu": Case("silu", (), F.silu),
    "hardswish": Case("hardswish", (), F.hardswish),
    "hardtanh": Case("hardtanh", (-0.5, 0.75), lambda x: F.hardtanh(x, -0.5, 0.75), True),
    "relu6": Case("hardtanh", (0.0, 6.0), F.relu6, True),
    "sigmoid": Case("sigmoid", (), torch.sigmoid, True),
    "tanh": Case("tanh", (), torch.tanh, True),
    "softplus": Case("softplus", (1.0, 20.0), F.softplus, True),
    "softplus of beta 2": Case("softplus", (2.0, 30.0), lambda x: F.softplus(x, 2, 30), True),
    "softplus of threshold 1": Case("softplus", (1.5, 1.0), lambda x: F.softplus(x, 1.5, 1)),
    "hardsigmoid": Case("hardsigmoid", (), F.hardsigmoid, True),
    "scale": Case("scale", (1 / 255, -0.5), lambda x: x * (1 / 255) - 0.5, True),
    "exp": Case("exp", (), torch.exp, True),
    "abs": Case("abs", (), torch.abs),
}
# Relative and absolute. What is made of a 16-bit output has the error of that.
TOLERANCES = {torch.float32: (5e-6, 1e-6), torch.float64: (1e-12, 3e-14)}
# torch has hardsigmoid's 1 / 6 as a float32. Softplus: between its threshold and its value there.
COARSE = {"hardsigmoid": 1e-7, "softplus": 3e-9}


def tolerances(name: str, dtype: torch.dtype, from_output: bool) -> dict[str, Any]:
    eps = torch.finfo(dtype).eps
    if dtype.itemsize == 2:
        return {"rtol": 2 * eps, "atol": 8 * eps if from_output else eps / 2}
    rtol, atol = TOLERANCES[dtype]
    return {"rtol": max(rtol, COARSE.get(name, 0.0)), "atol": atol}


def expected(case: Case, x: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    """By torch in float64, rounded once."""
    leaf = x.double().requires_grad_()
    output = case.function(leaf)
    (grad,) = torch.autograd.grad(output, leaf, grad_output.double())
    return output.detach().to(x.dtype), grad.to(x.dtype)


def check(name: str, x: Tensor) -> None:
    case, grad_output = CASES[name], normal(tuple(x.shape), x.dtype, 5)
    output, grad = expected(case, x, grad_output)
    ours = operators.activation(x, case.name, case.options)
    torch.testing.assert_close(ours, output, equal_nan=True, **tolerances("", x.dtype, False))
    ours = case.gradient(grad_output, x)
    torch.testing.assert_close(ours, grad, equal_nan=True, **tolerances(name, x.dtype, case.from_output))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        check(name, normal((size,), dtype, size) * (2 if name == "exp" else 4))  # e^12 is no float16


def kinks(case: Case, dtype: torch.dtype) -> Tensor:
    """Corners, zeros, thresholds, and their neighbours: each in each place of a vector."""
    info = torch.finfo(dtype)
    at = [
        0.0,
        1.0,
        3.0,
        6.0,
        10.0,
        15.0,
        20.0,
        *case.options,
        min(info.max / 1e10, 1e100),
        info.tiny,
        info.tiny / 8,
    ]
    values = torch.tensor([*at, *(-value for value in at)], dtype=torch.float64).to(dtype)
    far = torch.full_like(values, torch.inf)
    beside = [torch.nextafter(values, far), torch.nextafter(values, -far)] if dtype.itemsize > 2 else []
    values = torch.cat([values, *beside])
    return torch.cat([values.roll(shift) for shift in range(3)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_corners(name: str, dtype: torch.dtype) -> None:
    x = kinks(CASES[name], dtype)
    if name == "hardsigmoid":  # the last number below 3, whose output is 1
        x = x[(x >= 3) | (x < 3 - 1e-6)]
    check(name, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_infinities_and_nan(name: str, dtype: torch.dtype) -> None:
    """As where torch computes one by one: its vectors have other results for some."""
    case = CASES[name]
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0] * 9, dtype=dtype)
    one = torch.ones(1, dtype=dtype)
    wanted = [expected(case, x[i : i + 1], one) for i in range(4)]
    output, grad = (torch.cat(parts).repeat(9) for parts in zip(*wanted, strict=True))
    ours = operators.activation(x, case.name, case.options)
    torch.testing.assert_close(ours, output, equal_nan=True, **tolerances("", dtype, False))
    ours = case.gradient(torch.ones_like(x), x)
    kept = ~(x.isnan() & torch.tensor(name == "hardswish"))  # of which torch makes a slope of 1
    torch.testing.assert_close(
        ours[kept], grad[kept], equal_nan=True, **tolerances(name, dtype, case.from_output)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = laid_out(normal((2, 3, 5, 7), torch.float32, 1), layout)
    output = operators.activation(x, "tanh", [])
    torch.testing.assert_close(output, x.tanh())
    assert output.is_contiguous(memory_format=torch.channels_last) == x.is_contiguous(
        memory_format=torch.channels_last
    )
    torch.testing.assert_close(
        operators.activation_grad(x.contiguous(), output, "tanh", []), x * (1 - output.square())
    )


def test_same_bits_wherever_an_element_lies_and_for_every_number_of_threads(threads: None) -> None:
    x = normal((70_001,), torch.float32, 1)
    for case in CASES.values():
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(operators.activation(x, case.name, case.options))
        assert torch.equal(*results)
        part = operators.activation(x[12_345:12_349].clone(), case.name, case.options)
        assert torch.equal(part, results[0][12_345:12_349])


def test_list_of_activations_is_the_modules() -> None:
    assert {case.name for case in CASES.values()} == set(lenet_ext._C.activations()) - {"none"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mish", [], 'activation: there is no activation of the name "mish"'),
        ("none", [], 'activation: there is no activation of the name "none"'),
        ("elu", [1.0], "activation: elu has 3 options, got 1"),
        ("relu", [1.0], "activation: relu has 0 options, got 1"),
    ],
)
def test_errors(name: str, options: list[float], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        operators.activation(torch.zeros(3), name, options)


def test_gradients_of_other_sizes_and_dtypes_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="activation_grad: grad_output must have the sizes"):
        operators.activation_grad(torch.zeros(3, 2), x, "tanh", [])
    with pytest.raises(RuntimeError, match="activation_grad: saved is Float, but grad_output is Double"):
        operators.activation_grad(x.double(), x, "tanh", [])
