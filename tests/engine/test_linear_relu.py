"""linear_relu against the two functions of native torch: values, gradients, shapes, layouts."""

from __future__ import annotations

import pytest
import torch
from compare import DTYPES, assert_same, assert_sums_close, exact
from hypothesis import given
from hypothesis import strategies as st
from strategies import SIZES, normal
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import lenet_ext.functional as F
from lenet_ext.check import NATIVE

WIDTHS = [*SIZES, 64, 65, 120]


def results(block, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = block(*leaves)
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).round().to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, slope)]


@given(
    leading=st.sampled_from([(), (1,), (2,), (17,), (33,), (67,), (2, 3), (3, 1, 5), (0,), (2, 0)]),
    in_features=st.sampled_from(WIDTHS),
    out_features=st.sampled_from(WIDTHS),
    dtype=st.sampled_from(DTYPES),
    transposed=st.tuples(st.booleans(), st.booleans()),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_exact_in_whole_numbers(leading, in_features, out_features, dtype, transposed, bias, seed) -> None:
    """Sums of whole numbers are exact in any order: output and gradients are those of float64, rounded."""
    shapes = [(*leading, in_features), (out_features, in_features), (out_features,)]
    tensors = [normal(shape, dtype, seed + i).round() for i, shape in enumerate(shapes[: 2 + bias])]
    for i, swap in enumerate(transposed):
        if swap and tensors[i].dim() > 1:
            tensors[i] = tensors[i].transpose(0, -1).contiguous().transpose(0, -1)
    ours = results(F.linear_relu, tensors)
    theirs = results(NATIVE.linear_relu, [tensor.double() for tensor in tensors])
    for actual, expected in zip(ours, theirs, strict=True):
        assert_same(actual, expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_values(rows: int, dtype: torch.dtype) -> None:
    tensors = [normal(shape, dtype, i) for i, shape in enumerate([(rows, 400), (120, 400), (120,)])]
    wide = [tensor.double() for tensor in tensors]
    ours, theirs = F.linear_relu(*tensors), NATIVE.linear_relu(*wide)
    magnitude = exact(wide[0].abs() @ wide[1].abs().T + wide[2].abs())
    assert_sums_close(ours, exact(theirs), magnitude, 401)


@pytest.mark.parametrize("frozen", [None, 0, 1, 2])
@pytest.mark.parametrize(
    "shapes", [((4, 5), (3, 5), (3,)), ((2, 3, 5), (4, 5)), ((5,), (3, 5), (3,)), ((4, 5), (5,), ())]
)
def test_derivatives(shapes: tuple[tuple[int, ...], ...], frozen: int | None) -> None:
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=i != frozen) for i, s in enumerate(shapes)]
    assert gradcheck(F.linear_relu, tensors, check_forward_ad=True)
    assert gradgradcheck(F.linear_relu, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (4,), ()),
        ((3, 4), (4,), ()),
        ((2, 3, 4), (4,), (1,)),
        ((3, 0), (5, 0), (5,)),
        ((3, 4), (0, 4), (0,)),
        ((0, 0), (0, 0), (0,)),
    ],
)
def test_unusual_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    """One-dimensional weights, and no features: those of linear, then relu."""
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    ours = results(F.linear_relu, tensors)
    theirs = results(lambda *t: F.relu(F.linear(*t)), tensors)
    torch.testing.assert_close(ours, theirs)


def test_channels_last_input() -> None:
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    weight = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(F.linear_relu(image, weight), NATIVE.linear_relu(image, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays(dtype: torch.dtype) -> None:
    """In the output, and its gradient passes relu as native torch's does."""
    tensors = [normal(shape, dtype, i).round() for i, shape in enumerate([(5, 19), (23, 19), (23,)])]
    tensors[0][3, 18] = torch.nan
    ours = results(F.linear_relu, tensors)
    theirs = results(NATIVE.linear_relu, [tensor.double() for tensor in tensors])
    assert ours[0].isnan().sum() == 23
    for actual, expected in zip(ours, theirs, strict=True):
        assert_same(actual, expected.to(dtype))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(F.linear_relu, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    parameters = [torch.randn(6, 5), torch.randn(6)]
    for batch in (4, 3):
        tensors = [torch.randn(batch, 2, 5), *parameters]
        for actual, expected in zip(*(results(f, tensors) for f in (compiled, F.linear_relu)), strict=True):
            assert torch.equal(actual, expected)
