"""linear of stacks, as torch.vmap's rules call it: each member gets the bits that it gets alone."""

from __future__ import annotations

import pytest
import torch
from compare import DTYPES
from hypothesis import given
from hypothesis import strategies as st
from strategies import SIZES, normal
from torch import Tensor
from torch.func import jacfwd, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import lenet_ext.functional as F

operators = torch.ops.lenet_ext


class WeightSizes(TorchDispatchMode):
    """Collects the sizes of the weights that our operators are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[torch.Size] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (operators.linear.default, operators.conv2d.default):
            self.sizes.append(args[1].shape)
        return function(*args, **(kwargs or {}))


def stacks(
    members: int, rows: tuple[int, ...], in_features: int, out_features: int, dtype: torch.dtype
) -> list[Tensor]:
    """Input, weight, bias, gradient of the output."""
    lasts = [(*rows, in_features), (out_features, in_features), (out_features,), (*rows, out_features)]
    return [normal((members, *last), dtype, seed) for seed, last in enumerate(lasts)]


def check(x: Tensor, weight: Tensor, bias: Tensor, grad_output: Tensor) -> None:
    """All four operators, with bias and without, of the stack and of each member."""
    for stack, alone in (
        (operators.linear(x, weight, bias), lambda i: operators.linear(x[i], weight[i], bias[i])),
        (operators.linear(x, weight, None), lambda i: operators.linear(x[i], weight[i], None)),
        (
            operators.linear_input_grad(grad_output, weight),
            lambda i: operators.linear_input_grad(grad_output[i], weight[i]),
        ),
    ):
        assert len(stack) == len(x)
        for i, member in enumerate(stack):
            assert torch.equal(member, alone(i))
    for with_bias in (True, False):
        stack = operators.linear_weight_grad(grad_output, x, with_bias, True)
        together = operators.linear_grads(grad_output, x, weight, with_bias)
        for actual, expected in zip(together[1:], stack, strict=True):
            assert torch.equal(actual, expected)
        assert torch.equal(together[0], operators.linear_input_grad(grad_output, weight))
        for i in range(len(x)):
            alone = operators.linear_weight_grad(grad_output[i], x[i], with_bias)
            for actual, expected in zip(stack, alone, strict=True):
                assert torch.equal(actual[i], expected)


@given(
    members=st.sampled_from([1, 2, 3, 5, 8]),
    rows=st.lists(st.sampled_from([0, 1, 2, 5, 12, 17, 33]), max_size=2).map(tuple),
    in_features=st.sampled_from([0, *SIZES, 65]),
    out_features=st.sampled_from([*SIZES, 65]),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
)
def test_members_as_if_alone(members, rows, in_features, out_features, dtype, transposed) -> None:
    tensors = stacks(members, rows, in_features, out_features, dtype)
    if transposed:
        tensors = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors]
    check(*tensors)


def test_no_members() -> None:
    x, weight, bias, grad_output = stacks(0, (3,), 4, 5, torch.float32)
    assert operators.linear(x, weight, bias).shape == (0, 3, 5)
    assert operators.linear_input_grad(grad_output, weight).shape == (0, 3, 4)
    grad_weight, grad_bias = operators.linear_weight_grad(grad_output, x, True, True)
    assert grad_weight.shape == (0, 5, 4)
    assert grad_bias.shape == (0, 5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("sizes", [(70, 9, 33, 65), (2, 400, 420, 430)])
def test_threads_share_members_or_the_work_of_one(sizes: tuple[int, int, int, int]) -> None:
    """Many small members, and a few that are large."""
    members, rows, in_features, out_features = sizes
    x, weight, bias, grad_output = stacks(members, (rows,), in_features, out_features, torch.float32)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        grads = operators.linear_grads(grad_output, x, weight, True)
        results.append([operators.linear(x, weight, bias), *grads])
        for actual, expected in zip(results[-1], results[0], strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 0, 0), (0, 0, None), (1, None, 0), (None, 0, None)])
def test_derivatives(in_dims: tuple[int | None, ...], with_bias: bool) -> None:
    """Of the vmapped function, by finite differences, twice; of vmap in vmap as well."""
    x, weight, bias, _ = stacks(2, (3,), 2, 4, torch.float64)
    tensors = [x.transpose(0, 1) if in_dims[0] == 1 else x, weight, bias]
    tensors = [t if dim is not None else t[0] for t, dim in zip(tensors, in_dims, strict=True)]
    if not with_bias:
        tensors.pop()
    if all(dim is None for dim in in_dims[: len(tensors)]):
        return
    inputs = [t.clone().requires_grad_() for t in tensors]
    mapped = vmap(F.linear, in_dims[: len(tensors)])
    twice = vmap(mapped, 0)
    for function, arguments in (
        (mapped, inputs),
        (twice, [t.detach()[None].requires_grad_() for t in inputs]),
    ):
        assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_a_bias_of_each_member_needs_no_weight_of_each() -> None:
    """One product for all members, in forward and in the jacobian for the bias."""
    x, weight, bias, _ = stacks(200, (3,), 300, 400, torch.float32)
    with WeightSizes() as seen:
        vmap(F.linear, (None, None, 0))(x[0], weight[0], bias)
        jacfwd(lambda b: F.linear(x[0], weight[0], b))(bias[0])
        images, kernel = torch.randn(2, 3, 8, 8), torch.randn(400, 3, 3, 3)
        vmap(F.conv2d, (None, None, 0))(images, kernel, bias)
    assert set(seen.sizes) == {weight[0].shape, kernel.shape}


@pytest.mark.parametrize("frozen", ["input", "weight", "weight, input"])
def test_gradients_of_some(frozen: str) -> None:
    """Backward without transforms, of a graph that vmap has made."""
    x, weight, bias, grad_output = stacks(3, (5,), 4, 6, torch.float64)
    wanted = []
    for function in (F.linear, torch.nn.functional.linear):
        tensors = [t.clone().requires_grad_() for t in (x, weight, bias)]
        for tensor, name in zip(tensors, ("input", "weight"), strict=False):
            tensor.requires_grad_(name not in frozen)
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        wanted.append(torch.autograd.grad(vmap(function)(*tensors), leaves, grad_output))
    torch.testing.assert_close(*wanted)


def test_errors() -> None:
    x, weight, bias, grad_output = stacks(3, (5,), 4, 6, torch.float32)
    for call, message in (
        (lambda: F.linear(x, weight), r"linear: weight must have 2 dimensions \(out, in\), got \[3, 6, 4\]"),
        (
            lambda: operators.linear(x[:2], weight, None),
            r"linear: input must have 3 members in its first of 2 or more dimensions, as weight \[3, 6, 4\]",
        ),
        (lambda: operators.linear(x[0, 0], weight, None), r"linear: input must have 3 members"),
        (
            lambda: operators.linear(x, weight, bias[0]),
            r"linear: bias must have the sizes \[3, 6\], got \[6\]",
        ),
        (lambda: operators.linear_input_grad(x, weight), "linear_input_grad: grad_output .* has 4 features"),
        (
            lambda: operators.linear_weight_grad(grad_output[0, 0], x[0, 0], False, True),
            "linear_weight_grad: input and grad_output must have at least 2 dimensions",
        ),
        (
            lambda: operators.linear_weight_grad(grad_output[:2], x, False, True),
            "linear_weight_grad: grad_output",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    for call, message in (
        (
            lambda: vmap(lambda t: F.linear(t, weight[0, :, :1]))(bias[0]),
            "linear: input must have at least 1",
        ),
        (lambda: vmap(F.linear, (None, 0, 0))(x[0], weight, bias[:, None]), r"linear: bias must .* \[1, 6\]"),
        (lambda: vmap(F.linear, (None, None, 0))(x[0], weight[0], bias[:, :1]), "linear: bias must have"),
        (lambda: vmap(F.linear, (None, 0))(x[0, 0], bias[0]), "linear: weight must have 2 dimensions"),
        (lambda: vmap(F.linear_relu, (None, 0, 0))(x[0], weight, bias[:, None]), "linear_relu: bias must"),
        (
            lambda: vmap(F.conv2d, (None, None, 0))(x[None, :1], weight[:, None, :1, :1], bias[:, :1]),
            "conv2d: bias must have one element for each output channel",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    huge = torch.zeros(1).expand(2**40, 2**20, 1)
    with pytest.raises(RuntimeError, match=r"linear: .*elements"):
        operators.linear(huge, torch.zeros(1).expand(2**40, 2**22, 1), None)
