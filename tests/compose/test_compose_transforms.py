"""torch.func and forward mode inside of torch.compile: native torch's values, or a refusal, but never zeros.

The compiler would see our operators there without their gradients, where no tensor requires one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_func import CALLS, random
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from twins import images, twins

import lenet_ext
import lenet_ext.functional as F
from lenet_ext.check import NATIVE

Call = Callable[[Tensor], Tensor]
TRANSFORMS: dict[str, Callable[[Call], Call]] = {
    "grad": lambda call: grad(lambda x: call(x).square().sum()),
    "jvp": lambda call: lambda x: jvp(call, (x,), (x,))[1],
    "jacrev": jacrev,
    "vmap of grad": lambda call: lambda x: vmap(grad(lambda y: call(y).square().sum()))(torch.stack([x, -x])),
}


@pytest.fixture(autouse=True)
def forget_compiled_code() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "name",
    ["conv2d", "max_pool2d", "linear", "relu", "relu inplace", "linear_relu", "conv2d_relu_max_pool2d"],
)
def test_every_function(name: str, transform: str) -> None:
    """For the weight, or the images where there is none."""
    call, shapes = CALLS[name]
    tensors = random(shapes)
    place = min(1, len(tensors) - 1)

    def of(functions: Any) -> Call:
        return TRANSFORMS[transform](lambda t: call(functions, *tensors[:place], t, *tensors[place + 1 :]))

    expected = of(NATIVE)(tensors[place])
    assert expected.abs().max() > 0
    torch.testing.assert_close(torch.compile(of(F), backend="aot_eager")(tensors[place]), expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(of(F), backend="aot_eager", fullgraph=True)(tensors[place])


def test_inductor() -> None:
    """A whole network, for its images, among operations that it compiles."""
    ours, native = (model.requires_grad_(False) for model in twins())
    batch = images()
    program = torch.compile(lambda x: grad(lambda y: ours(y * 2).square().sum())(x).sin())
    expected = grad(lambda y: native(y * 2).square().sum())(batch).sin()
    torch.testing.assert_close(program(batch), expected)


def test_fused_network() -> None:
    native = twins()[1].requires_grad_(False)
    batch = images()
    fused = lenet_ext.fuse(native, batch)
    program = torch.compile(grad(lambda x: fused(x).square().sum()), backend="aot_eager")
    torch.testing.assert_close(program(batch), grad(lambda x: native(x).square().sum())(batch))


def test_backward_through_an_ensemble() -> None:
    """Stacked weights that require gradients, outside of the transform."""
    batch, results = images(), []
    for members in zip(*[twins() for _ in range(3)], strict=True):
        weights, _ = stack_module_state(list(members))

        def call(weights: dict[str, Tensor], model: torch.nn.Module = members[0]) -> Tensor:
            return vmap(lambda w: functional_call(model, w, (batch,)))(weights)

        torch.compile(call, backend="aot_eager")(weights).square().sum().backward()
        results.append([weight.grad for weight in weights.values()])
    assert all(gradient is not None for gradient in results[0])
    torch.testing.assert_close(*results)


def test_forward_mode() -> None:
    """Dual tensors made inside of the compiled function."""
    x, weight = torch.randn(3, 4), torch.randn(5, 4)

    def tangent(functions: Any, weight: Tensor) -> Tensor:
        with forward_ad.dual_level():
            output = functions.linear(x, forward_ad.make_dual(weight, weight.cos()))
            return forward_ad.unpack_dual(output).tangent

    program = torch.compile(lambda w: tangent(F, w), backend="aot_eager")
    torch.testing.assert_close(program(weight), tangent(NATIVE, weight))
