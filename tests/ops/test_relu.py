"""relu: values bit by bit, special values, gradients, layouts, and writing over its input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from compare import DTYPES, assert_same
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, SIZES, laid_out, normal
from torch import Tensor

import lenet_ext.functional as F

SPECIAL = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 1e-7, 65504.0]


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal, and zeros of the same sign."""
    assert_same(actual, expected)
    assert torch.equal(actual.signbit() & (actual == 0), expected.signbit() & (expected == 0))


@given(
    shape=st.lists(st.sampled_from(SIZES), max_size=3),
    dtype=st.sampled_from(DTYPES),
    inplace=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_matches_native_torch(shape: list[int], dtype: torch.dtype, inplace: bool, seed: int) -> None:
    values, grad_output = normal(tuple(shape), dtype, seed), normal(tuple(shape), dtype, seed + 1)
    results = []
    for function in (F.relu, native.relu):
        x = values.clone().requires_grad_()
        output = function(x * 1, inplace=inplace)
        results.append((output, *torch.autograd.grad(output, x, grad_output)))
    for ours, theirs in zip(*results, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: torch.dtype, inplace: bool) -> None:
    """Each in each lane of a vector, and in the tail."""
    for shift in range(len(SPECIAL)):
        values = torch.tensor(SPECIAL, dtype=dtype).roll(shift).repeat(6)
        expected = native.relu(values)
        assert_same(F.relu(values.clone(), inplace=inplace), expected)
        x = values.clone().requires_grad_()
        grad_output = torch.arange(1, len(x) + 1).to(dtype)
        (ours,) = torch.autograd.grad(F.relu(x), x, grad_output)
        (theirs,) = torch.autograd.grad(native.relu(x), x, grad_output)
        assert_same(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    values = laid_out(torch.randn(2, 3, 5, 7), layout)
    x = values.detach().requires_grad_()
    output = F.relu(x)
    assert_same(output, native.relu(values))
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert output.is_contiguous(memory_format=expected)
    for grad_layout in LAYOUTS:
        grad_output = laid_out(torch.randn(2, 3, 5, 7), grad_layout)
        (ours,) = torch.autograd.grad(output, x, grad_output, retain_graph=True)
        assert_same(ours, torch.where(values > 0, grad_output, 0))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("grad", [False, True])
def test_inplace_layouts(layout: str, grad: bool) -> None:
    """What lies between the elements of a slice stays as it was."""
    base = torch.randn(2, 3, 5, 7)
    x = laid_out(base.requires_grad_() * 1 if grad else base, layout)
    expected = native.relu(x.detach().clone())
    everything = torch.tensor([]).set_(x.untyped_storage())
    outside = everything.isnan().sum()
    assert F.relu(x, inplace=True) is x
    assert_same(x.detach(), expected)
    assert everything.isnan().sum() == outside


def test_inplace_returns_its_input_and_counts_a_version() -> None:
    for x in (torch.randn(5), torch.randn(5, requires_grad=True) * 1):
        version = x._version
        assert F.relu(x, inplace=True) is x
        assert x._version > version
    with torch.inference_mode():
        assert F.relu(torch.full((3,), -1.0), inplace=True).sum() == 0


def test_inplace_change_of_a_saved_tensor_is_noticed() -> None:
    x = torch.randn(5, requires_grad=True)
    y = x.exp()
    with torch.no_grad():
        F.relu(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inplace_on_a_view_reaches_the_base() -> None:
    values = torch.randn(4, 4)
    grads = []
    for function in (F.relu, native.relu):
        x = values.clone().requires_grad_()
        base = x * 2
        function(base[:2], inplace=True)
        grads.append(torch.autograd.grad(base.square().sum(), x)[0])
    assert_same(*grads)


def _inference_tensor() -> Tensor:
    with torch.inference_mode():
        return torch.full((3,), -1.0)


def _view(mode: Callable[[], AbstractContextManager[object]]) -> Tensor:
    whole = torch.full((2, 3), -1.0, requires_grad=True) * 1
    with mode():
        return whole[0]


FORBIDDEN = {
    "inference tensor": _inference_tensor,
    "view of an inference tensor": lambda: _inference_tensor()[1:],
    "view made in inference mode": lambda: _view(torch.inference_mode),
    "view made under no_grad": lambda: _view(torch.no_grad),
    "one of several views": lambda: (torch.full((2, 3), -1.0, requires_grad=True) * 1).unbind()[0],
    "view made by a custom function": lambda: _CustomView.apply(
        torch.full((2, 3), -1.0, requires_grad=True) * 1
    ),
}


class _CustomView(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return whole[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.stack([grad, torch.zeros_like(grad)])


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_inplace_is_refused_where_torch_refuses_it(kind: str) -> None:
    """In torch's own words, and before anything is written."""
    with pytest.raises(RuntimeError) as wanted:
        native.relu(FORBIDDEN[kind](), inplace=True)
    target = FORBIDDEN[kind]()
    with pytest.raises(RuntimeError) as raised:
        F.relu(target, inplace=True)
    assert str(raised.value) == str(wanted.value)
    assert bool((target.detach() == -1).all())


def test_inplace_errors() -> None:
    leaf = torch.full((3,), -1.0, requires_grad=True)
    for target in (leaf, leaf[1:]):
        with pytest.raises(RuntimeError, match="relu: with inplace=True, input must not be"):
            F.relu(target, inplace=True)
    assert torch.equal(leaf, torch.full((3,), -1.0))
    expanded = torch.full((1,), -1.0).expand(4)
    with pytest.raises(RuntimeError, match="relu_: input must have a place in memory for each element"):
        F.relu(expanded, inplace=True)
    with pytest.raises(TypeError, match="relu: input must be a Tensor"):
        F.relu([1.0])
    with pytest.raises(RuntimeError, match=r"relu: .*float32, float64, bfloat16 (or|and) float16"):
        F.relu(torch.ones(3, dtype=torch.int32))
