"""Prints the instruction set in use after measuring the errors of csrc/cpu/math through the activations.

Errors are in units in the last place (ulp) of the exact result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import lenet_ext

STEP = 1021  # of every so many numbers of float32 one is tried
operators = torch.ops.lenet_ext


def numbers() -> Tensor:
    """A sample of all bit patterns of float32, NaN among them, and all near where something changes."""
    bits = torch.arange(-(2**31), 2**31, STEP).to(torch.int32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 0.6, 0.5, 0.25, 1.0, 18, 15, 20])
    limits = torch.tensor([math.log(2) / 2, 88.72284, 103.97208, 87.33655, 1.1754944e-38, 9.01, 14.16])
    near = torch.cat([special, -special, limits, -limits]).view(torch.int32)
    around = (near.long()[:, None] + torch.arange(-300, 301)).flatten()
    around = around[(around >= -(2**31)) & (around < 2**31)].to(torch.int32)
    return torch.cat([bits, around]).view(torch.float32)


def errors(actual: Tensor, exact: Tensor) -> Tensor:
    """In ulp of `exact` (float64); infinite where one of both is NaN or infinite in the type of `actual`."""
    rounded = exact.to(actual.dtype)
    info = torch.finfo(actual.dtype)
    digits = 1 - round(math.log2(info.eps))
    exponent = torch.frexp(exact).exponent.clamp(min=round(math.log2(info.tiny)) + 1)
    error = torch.ldexp((actual.double() - exact).abs(), (digits - exponent).double())
    same = (actual == rounded) | (actual.isnan() & rounded.isnan())
    # The largest number and infinity are neighbours.
    beside = (actual.abs() == info.max) & rounded.isinf() | actual.isinf() & (rounded.abs() == info.max)
    special = ~(rounded.isfinite() & actual.isfinite())
    error = torch.where(special, torch.where(beside, 1.0, torch.inf), error)
    return torch.where(special & same, 0.0, error)


def expm1(x: Tensor) -> Tensor:
    """By elu, which has it where its input is not positive."""
    direct = operators.activation(x, "elu", [1.0, 1.0, 1.0])
    mirrored = operators.activation(-x, "elu", [1.0, 1.0, -1.0])
    return torch.where(x > 0, mirrored, direct)


def exp(x: Tensor) -> Tensor:
    """By elu's gradient from the input, which a negative scale asks for."""
    one = torch.ones_like(x)
    direct = operators.activation_grad(one, x, "elu", [-1.0, -1.0, 1.0])
    mirrored = -operators.activation_grad(one, -x, "elu", [-1.0, -1.0, -1.0])
    return torch.where(x > 0, mirrored, torch.where(x.isnan(), x, direct))


def named(name: str, *options: float) -> Callable[[Tensor], Tensor]:
    return lambda x: operators.activation(x, name, list(options))


def sigmoid(x: Tensor) -> Tensor:
    return torch.where(x < 0, x.exp() / (1 + x.exp()), 1 / (1 + (-x).exp()))


def gelu(x: Tensor) -> Tensor:
    return x * torch.special.erfc(x * -(0.5**0.5)) / 2


class Function(NamedTuple):
    ours: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    most: float  # ulp, as docs/kernels.md states
    begin: float = -torch.inf
    end: float = torch.inf


# A product with a number that is nearly 0 has no more bits than that.
FUNCTIONS = {
    "exp": Function(exp, torch.exp, 1),
    "expm1": Function(expm1, torch.expm1, 2),
    "sigmoid": Function(named("sigmoid"), sigmoid, 2),
    "tanh": Function(named("tanh"), torch.tanh, 2),
    "ln(1 + exp(x))": Function(
        named("softplus", 1.0, torch.inf), lambda x: x.clamp(min=0) + torch.log1p((-x.abs()).exp()), 3
    ),
    "x sigmoid(x)": Function(named("silu"), lambda x: x * sigmoid(x), 3, begin=-85),
    "gelu in the tail": Function(named("gelu"), gelu, 5, begin=-12.5, end=-0.5),
    "gelu elsewhere": Function(named("gelu"), gelu, 3, begin=-0.5),
}


def main() -> None:
    x = numbers()
    for name, function in FUNCTIONS.items():
        inside = x[~(x < function.begin) & ~(x > function.end)]
        if function.begin > -torch.inf:  # -inf times 0
            inside = inside[inside.isfinite() | (inside > 0)]
        actual, exact = function.ours(inside), function.exact(inside.double())
        error = errors(actual, exact)
        worst = int(error.argmax())
        found = f"{float(error[worst]):.2f} ulp at {float(inside[worst])}"
        assert error[worst] <= function.most, (
            f"{name}: {found}: {float(actual[worst])}, not {float(exact[worst])}"
        )
        print(f"{name}: {found}")
    print(lenet_ext.cpu_isa())


if __name__ == "__main__":
    main()
