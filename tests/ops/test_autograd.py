"""Gradients of first and higher order, forward mode, what is computed and saved, autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import lenet_ext.functional as F
from lenet_ext.check import NATIVE as native


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
@pytest.mark.parametrize("padding", [0, (1, 2), "same"])
@pytest.mark.parametrize("stride", [1, (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d(stride, padding, dilation, groups, bias) -> None:
    if padding == "same" and stride != 1:
        stride = 1
    image = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4 // groups, 3, 2, dtype=torch.float64, requires_grad=True)
    tensors = [image, weight]
    if bias:
        tensors.append(torch.randn(2, dtype=torch.float64, requires_grad=True))

    def function(image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(image, weight, bias, stride, padding, dilation, groups)

    assert gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_conv2d_with_frozen_inputs(frozen: int) -> None:
    shapes = [(2, 3, 5, 5), (4, 3, 3, 3), (4,)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=i != frozen) for i, s in enumerate(shapes)]
    assert gradcheck(F.conv2d, tensors, check_forward_ad=True)
    assert gradgradcheck(F.conv2d, tensors, check_fwd_over_rev=True)


def test_conv2d_third_order() -> None:
    weight = torch.randn(2, 1, 2, 2, dtype=torch.float64)

    def penalty(conv2d, image: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(conv2d(image, weight).pow(4).sum(), image, create_graph=True)
        (grad,) = torch.autograd.grad(grad.pow(2).sum(), image, create_graph=True)
        return torch.autograd.grad(grad.sum(), image)[0]

    image = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(penalty(F.conv2d, image), penalty(native.conv2d, image))


def test_weight_changed_before_backward_is_noticed() -> None:
    image, weight = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 3, 3, requires_grad=True)
    output = F.conv2d(image, weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def spread(*shape: int) -> Tensor:
    """Values at least 0.01 apart, and from 0, so that no small change moves a maximum or passes the kink."""
    count = int(torch.tensor(shape).prod())
    return ((torch.randperm(count) - count / 2 + 0.25) / 20).double().reshape(shape).requires_grad_()


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("kernel", "stride"), [(2, None), ((3, 2), (1, 2)), (3, 2)])
def test_max_pool2d(kernel, stride, padding: int, dilation, ceil_mode: bool) -> None:
    def function(image: Tensor) -> Tensor:
        return F.max_pool2d(image, kernel, stride, padding, dilation, ceil_mode)

    image = spread(2, 2, 7, 6)
    assert gradcheck(function, image, check_forward_ad=True)
    assert gradgradcheck(function, image, check_fwd_over_rev=True)


@pytest.mark.parametrize(
    "shapes", [((4, 5), (3, 5), (3,)), ((2, 3, 5), (4, 5)), ((5,), (3, 5), (3,)), ((4, 5), (5,))]
)
def test_linear(shapes: tuple[tuple[int, ...], ...]) -> None:
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(F.linear, tensors, check_forward_ad=True)
    assert gradgradcheck(F.linear, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_linear_with_frozen_inputs(frozen: int) -> None:
    shapes = [(4, 5), (3, 5), (3,)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=i != frozen) for i, s in enumerate(shapes)]
    assert gradcheck(F.linear, tensors, check_forward_ad=True)
    assert gradgradcheck(F.linear, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu(inplace: bool) -> None:
    def function(x: Tensor) -> Tensor:
        return F.relu(x.clone(), inplace=inplace)

    assert gradcheck(function, spread(3, 4, 5), check_forward_ad=True)
    assert gradgradcheck(function, spread(3, 4, 5), check_fwd_over_rev=True)


class Operators(TorchDispatchMode):
    """Collects the names of our operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "lenet_ext":
            self.names.append(function.name().removeprefix("lenet_ext::"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("operator", ["conv2d", "linear"])
@pytest.mark.parametrize("wanted", range(1, 8))
@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_computes_only_what_is_asked_for(operator: str, wanted: int, create_graph: bool) -> None:
    """`wanted` is a bit mask over input, weight and bias."""
    shapes = [(2, 3, 5, 5), (4, 3, 3, 3), (4,)] if operator == "conv2d" else [(2, 3), (4, 3), (4,)]
    tensors = [torch.randn(shape, requires_grad=bool(wanted >> i & 1)) for i, shape in enumerate(shapes)]
    output = getattr(F, operator)(*tensors)
    with Operators() as called:
        inputs = [t for t in tensors if t.requires_grad]
        grads = torch.autograd.grad(output.sum(), inputs, create_graph=create_graph)
    expected = [f"{operator}_input_grad"] * (wanted & 1) + [f"{operator}_weight_grad"] * (wanted >> 1 & 1)
    if len(expected) == 2 and not create_graph:
        expected = [f"{operator}_grads"]
    assert called.names == expected
    theirs = torch.autograd.grad(getattr(native, operator)(*tensors).sum(), inputs)
    for actual, wanted_grad in zip(grads, theirs, strict=True):
        torch.testing.assert_close(actual, wanted_grad, rtol=1e-4, atol=1e-4)


def test_without_gradients_the_operator_is_called_alone() -> None:
    image = torch.randn(1, 2, 4, 4, requires_grad=True)
    with torch.no_grad(), Operators() as called:
        outputs = [F.relu(image), F.max_pool2d(image, 2), F.conv2d(image, torch.randn(1, 2, 3, 3))]
        outputs.append(F.linear(image, torch.randn(2, 4)))
        outputs += [F.conv2d_relu_max_pool2d(image, torch.randn(1, 2, 3, 3))]
        outputs += [F.linear_relu(image, torch.randn(2, 4))]
    assert called.names == ["relu", "max_pool2d", "conv2d", "linear", "network", "network"]
    assert all(output.grad_fn is None for output in outputs)


@pytest.mark.parametrize("bias", [True, False])
def test_hessian_of_a_small_network(bias: bool) -> None:
    """All four layers in one, differentiated twice by torch.autograd.functional, also vectorised."""
    weight, matrix = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    offset = torch.randn(2, dtype=torch.float64) if bias else None

    def network(functions, image: Tensor) -> Tensor:
        features = functions.max_pool2d(functions.relu(functions.conv2d(image, weight, offset)), 2)
        return functions.linear(features.flatten(1), matrix).square().sum()

    image = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    for vectorize in (False, True):
        hessians = [
            torch.autograd.functional.hessian(lambda x, f=f: network(f, x), image, vectorize=vectorize)
            for f in (F, native)
        ]
        assert hessians[1].abs().max() > 0.1
        torch.testing.assert_close(*hessians)


AUTOCAST_CALLS: dict[str, tuple[Callable[..., tuple], ...]] = {
    "conv2d": (lambda f, x, w: f.conv2d(x, w.view(4, 3, 3, 3)),),
    "linear": (lambda f, x, w: f.linear(x.view(2, 192), w.new_ones(5, 192) * w.mean()),),
    "relu": (lambda f, x, w: f.relu(x * w.mean()),),
    "conv2d_relu_max_pool2d": (lambda f, x, w: f.conv2d_relu_max_pool2d(x, w.view(4, 3, 3, 3)),),
    "linear_relu": (lambda f, x, w: f.linear_relu(x.view(2, 192), w.new_ones(5, 192) * w.mean()),),
    "max_pool2d": (lambda f, x, w: f.max_pool2d(x * w.mean(), 2),),
}


@pytest.mark.parametrize("name", AUTOCAST_CALLS)
def test_autocast(name: str) -> None:
    """The dtypes of output and gradient are native torch's, the values up to rounding; float64 stays float64.

    Where a CPU has no instructions for bfloat16, native torch's gradients of weights carry several roundings.
    """
    (call,) = AUTOCAST_CALLS[name]
    image, values = torch.randn(2, 3, 8, 8), torch.randn(108)
    results = []
    for functions in (F, native):
        weight = values.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = call(functions, image, weight)
            double = call(functions, image.double(), values.double())
        output.float().square().mean().backward()
        results.append((output, double, weight.grad))
    for ours, theirs in zip(*results, strict=True):
        rounding = torch.finfo(ours.dtype if ours.dtype == torch.float64 else torch.bfloat16).eps
        limit = 4 * rounding * float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit)
