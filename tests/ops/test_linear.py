"""linear against the float64 reference and native torch: values, gradients, shapes, layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as native
from compare import DTYPES, assert_sums_close, exact
from hypothesis import given
from hypothesis import strategies as st
from strategies import SIZES, normal
from torch import Tensor

import lenet_ext.functional as F

operators = torch.ops.lenet_ext
WIDTHS = [*SIZES, 63, 64, 65, 84, 120, 129, 400]


def check(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad_output: Tensor, repeated: bool = False
) -> None:
    """The three operators on (rows, in), (out, in), (out,)."""
    a, w, g = exact(x), exact(weight), exact(grad_output)
    b = np.zeros(len(w)) if bias is None else exact(bias)
    output = operators.linear(x, weight, bias)
    assert_sums_close(output, a @ w.T + b, abs(a) @ abs(w).T + abs(b), a.shape[1] + 1, repeated)
    grad_input = operators.linear_input_grad(grad_output, weight)
    assert_sums_close(grad_input, g @ w, abs(g) @ abs(w), len(w), repeated)
    grad_weight, grad_bias = operators.linear_weight_grad(grad_output, x, True)
    assert_sums_close(grad_weight, g.T @ a, abs(g).T @ abs(a), len(a), repeated)
    assert_sums_close(grad_bias, g.sum(0), abs(g).sum(0), len(a), repeated)
    grad_weight_alone, empty = operators.linear_weight_grad(grad_output, x, False)
    assert torch.equal(grad_weight_alone, grad_weight)
    assert empty.numel() == 0
    together = operators.linear_grads(grad_output, x, weight, True)
    for actual, expected in zip(together, (grad_input, grad_weight, grad_bias), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [*SIZES, 47, 48, 49])
def test_sums_of_one_term(columns: int, dtype: torch.dtype) -> None:
    """Each product in turn has a depth of one: output, input gradient, weight gradient."""
    for rows, in_features, out_features in [(17, 1, columns), (17, columns, 1), (1, columns, 17)]:
        tensors = [(rows, in_features), (out_features, in_features), (out_features,), (rows, out_features)]
        check(*[normal(shape, dtype, seed) for seed, shape in enumerate(tensors)])


def strided(tensor: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return tensor.T.contiguous().T
    if layout == "sliced":
        return torch.nn.functional.pad(tensor.repeat_interleave(2, 1), (1, 2), value=torch.nan)[:, 1:-2:2]
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape)
    return tensor


@given(
    rows=st.sampled_from(SIZES),
    in_features=st.sampled_from(WIDTHS),
    out_features=st.sampled_from(WIDTHS),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(*[st.sampled_from(["contiguous", "transposed", "sliced", "expanded"])] * 3),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_matches_reference(rows, in_features, out_features, dtype, layouts, bias, seed) -> None:
    shapes = [(rows, in_features), (out_features, in_features), (rows, out_features)]
    x, weight, grad_output = (
        strided(normal(shape, dtype, seed + i), layout)
        for i, (shape, layout) in enumerate(zip(shapes, layouts, strict=True))
    )
    offset = normal((out_features,), dtype, seed + 3) if bias else None
    check(x, weight, offset, grad_output, repeated="expanded" in layouts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_features", SIZES)
@pytest.mark.parametrize("rows", [1, 2, 15, 17, 64])
def test_widths(rows: int, out_features: int, dtype: torch.dtype) -> None:
    for in_features in (1, 7, 16, 33):
        shapes = [(rows, in_features), (out_features, in_features), (out_features,), (rows, out_features)]
        check(*(normal(shape, dtype, i) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize(
    "shapes", [(64, 400, 120), (64, 120, 84), (256, 84, 10), (3, 9216, 257), (1, 1030, 1)]
)
def test_layers_of_small_networks(shapes: tuple[int, int, int]) -> None:
    rows, in_features, out_features = shapes
    tensors = [(rows, in_features), (out_features, in_features), (out_features,), (rows, out_features)]
    check(*(normal(shape, torch.float32, i) for i, shape in enumerate(tensors)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("input_shape", "weight_shape"),
    [
        ((5,), (3, 5)),
        ((2, 5), (3, 5)),
        ((2, 3, 4, 5), (6, 5)),
        ((0, 5), (3, 5)),
        ((2, 0, 5), (3, 5)),
        ((4, 0), (3, 0)),
        ((4, 5), (0, 5)),
        ((2, 5), (5,)),
        ((5,), (5,)),
    ],
)
def test_shapes(input_shape: tuple[int, ...], weight_shape: tuple[int, ...], bias: bool) -> None:
    """Any number of leading dimensions, none too; sizes of 0; a weight of one dimension."""
    tensors = [torch.randn(input_shape, dtype=torch.float64), torch.randn(weight_shape, dtype=torch.float64)]
    if bias and not (len(weight_shape) == 1 < len(input_shape)):  # which torch refuses
        tensors.append(torch.randn(weight_shape[:-1], dtype=torch.float64))
    results = []
    for function in (F.linear, native.linear):
        inputs = [t.clone().requires_grad_() for t in tensors]
        output = function(*inputs)
        results.append((output, *torch.autograd.grad(output.sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_channels_last_input() -> None:
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    weight = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(F.linear(image, weight), native.linear(image, weight))


@pytest.mark.parametrize("where", ["input", "weight"])
def test_nan_stays_in_its_sums(where: str) -> None:
    for dtype in DTYPES:
        tensors = {"input": torch.randn(5, 19, dtype=dtype), "weight": torch.randn(23, 19, dtype=dtype)}
        tensors[where][3, 18] = torch.nan
        assert torch.equal(F.linear(**tensors).isnan(), native.linear(**tensors).isnan())
