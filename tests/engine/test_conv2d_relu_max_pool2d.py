"""conv2d_relu_max_pool2d against the three functions of native torch: values, gradients, memory, layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from compare import DTYPES, assert_same, assert_sums_close, exact
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, ConvCase, conv_cases, laid_out
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import lenet_ext.functional as F
from lenet_ext.check import NATIVE

Block = Callable[..., Tensor]


@st.composite
def calls(draw: st.DrawFn) -> tuple[ConvCase, dict]:
    """A convolution and arguments of the block whose pool has at least one window."""
    case = draw(conv_cases())
    before, after, left, right = case.geometry.padding
    padding = (max(before, after), max(left, right))  # native torch pads both sides alike
    geometry = case.geometry._replace(padding=(padding[0], padding[0], padding[1], padding[1]))
    sizes = [
        (size + 2 * pad - step * (kernel - 1) - 1) // stride + 1
        for size, pad, step, kernel, stride in zip(
            case.input_shape[2:],
            padding,
            geometry.dilation,
            case.weight_shape[2:],
            geometry.stride,
            strict=True,
        )
    ]
    pool = tuple(min(size, draw(st.sampled_from([1, 2, 2, 2, 3, 4]))) for size in sizes)
    stride = draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * 2)))
    arguments = {**geometry._asdict(), "padding": padding, "pool_size": pool, "pool_stride": stride}
    return replace(case, geometry=geometry), arguments


def whole(tensor: Tensor) -> Tensor:
    """Whole numbers from -2 to 2: sums of their products are exact in any order, and windows hold ties."""
    return tensor.round().clamp(-2, 2)


def results(
    block: Block, tensors: list[Tensor], arguments: dict, slope: Tensor | None = None
) -> list[Tensor]:
    """Output and gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = block(*leaves, **arguments)
    if slope is None:
        slope = whole(torch.randn(output.shape, generator=torch.Generator().manual_seed(0)))
    return [output.detach(), *torch.autograd.grad(output, leaves, slope.to(output.dtype))]


@given(calls())
def test_exact_in_whole_numbers(call: tuple[ConvCase, dict]) -> None:
    """Output and every gradient are those of the composition in float64, rounded: ties included."""
    case, arguments = call
    if case.geometry.stride == (1, 1):  # perhaps by Winograd's method, which divides, but not in float64
        case = replace(case, dtype=torch.float64)
    tensors = [whole(tensor) for tensor in case.tensors() if tensor is not None]
    tensors[0] = laid_out(tensors[0], case.layout)
    ours = results(F.conv2d_relu_max_pool2d, tensors, arguments)
    theirs = results(NATIVE.conv2d_relu_max_pool2d, [t.double() for t in tensors], arguments)
    for actual, expected in zip(ours, theirs, strict=True):
        assert_same(actual, expected.to(case.dtype))


@given(calls())
def test_values(call: tuple[ConvCase, dict]) -> None:
    """A maximum strays no further than the sums it is taken of."""
    case, arguments = call
    tensors = [tensor for tensor in case.tensors() if tensor is not None]
    ours = F.conv2d_relu_max_pool2d(*tensors, **arguments)
    theirs = NATIVE.conv2d_relu_max_pool2d(*(tensor.double() for tensor in tensors), **arguments)
    terms = math.prod(case.weight_shape[1:]) + 1
    assert ours.dtype == case.dtype
    magnitude = np.full(ours.shape, 2.0 * terms)
    assert_sums_close(ours, exact(theirs), magnitude, terms, case.layout == "expanded")


def images_and_parameters(*frozen: int) -> list[Tensor]:
    shapes = [(2, 4, 7, 8), (6, 2, 3, 2), (6,)]
    return [
        torch.randn(shape, dtype=torch.float64, requires_grad=i not in frozen)
        for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": (1, 2), "padding": (2, 1)},
        {"padding": "same", "pool_size": 3},
        {"dilation": (1, 2), "pool_size": (3, 2), "pool_stride": (1, 2)},
    ],
)
def test_derivatives(arguments: dict) -> None:
    def function(*tensors: Tensor) -> Tensor:
        return F.conv2d_relu_max_pool2d(*tensors, groups=2, **arguments)

    for tensors in (images_and_parameters(), images_and_parameters()[:2]):
        assert gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(function, tensors, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("frozen", [0, 1, 2, (0, 1), (0, 2), (1, 2)])
def test_frozen_inputs(frozen: int | tuple[int, ...]) -> None:
    tensors = images_and_parameters(*(frozen if isinstance(frozen, tuple) else (frozen,)))

    def function(*tensors: Tensor) -> Tensor:
        return F.conv2d_relu_max_pool2d(*tensors, groups=2)

    assert gradcheck(function, tensors, check_forward_ad=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_tensor_in_two_places(create_graph: bool) -> None:
    """The input is the weight as well: each gets its own gradient, and they add up."""
    values = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def gradient(block: Block) -> list[Tensor]:
        tensor = values.clone().requires_grad_()
        output = block(tensor * 1, tensor, padding=2) + block(tensor, tensor, padding=2)
        (first,) = torch.autograd.grad(output.pow(3).sum(), tensor, create_graph=create_graph)
        return [first, torch.autograd.grad(first.pow(2).sum(), tensor)[0]] if create_graph else [first]

    torch.testing.assert_close(gradient(F.conv2d_relu_max_pool2d), gradient(NATIVE.conv2d_relu_max_pool2d))


class Calls(TorchDispatchMode):
    """Collects the operators that are called, ours with their last arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "lenet_ext":
            self.ours.append((function.name().removeprefix("lenet_ext::"), args[-2:]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wanted", range(1, 8))
def test_one_kernel_each_way(wanted: int) -> None:
    """`wanted` is a bit mask over input, weight and bias; what no one asks for is not computed."""
    shapes = [(2, 3, 6, 6), (4, 3, 3, 3), (4,)]
    tensors = [torch.randn(shape, requires_grad=bool(wanted >> i & 1)) for i, shape in enumerate(shapes)]
    with Calls() as called:
        output = F.conv2d_relu_max_pool2d(*tensors)
        torch.autograd.grad(output.sum(), [t for t in tensors if t.requires_grad])
    assert [name for name, _ in called.ours] == ["network_forward", "network_backward"]
    assert called.ours[1][1] == (bool(wanted & 1), wanted > 1)


def test_saves_pooled_sizes_only() -> None:
    """Besides input, weight and bias: the pooled output, and a byte for each of its elements."""
    tensors = [torch.randn(shape, requires_grad=True) for shape in [(8, 3, 20, 20), (16, 3, 5, 5), (16,)]]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = F.conv2d_relu_max_pool2d(*tensors)
    others = [tensor for tensor in kept if not any(tensor is given for given in tensors)]
    assert sum(tensor.numel() * tensor.element_size() for tensor in others) == 5 * output.numel()


@pytest.mark.parametrize("argument", ["input", "weight", "bias", "grad_output"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(argument: str, layout: str) -> None:
    tensors = {
        "input": torch.randn(2, 3, 9, 9),
        "weight": torch.randn(4, 3, 3, 3),
        "bias": torch.randn(8)[::2],
        "grad_output": torch.randn(2, 4, 3, 3),
    }
    if argument != "bias":
        tensors[argument] = laid_out(tensors[argument], layout)
    *inputs, slope = tensors.values()
    ours = results(F.conv2d_relu_max_pool2d, inputs, {}, slope)
    copies = results(F.conv2d_relu_max_pool2d, [t.contiguous() for t in inputs], {}, slope.contiguous())
    for actual, expected in zip(ours, copies, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "shape", [(2, 3, 9, 9), (0, 3, 9, 9), (3, 9, 9), (2, 3, 1, 1), (2, 1, 9, 9), (1, 3, 9, 1)]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("grad", [False, True])
def test_shape_and_format_are_those_of_the_three_functions(shape, layout: str, grad: bool) -> None:
    image, weight = torch.randn(shape), torch.randn(4, shape[-3], 3, 3)
    image = laid_out(image, layout) if len(shape) == 4 else image
    image.requires_grad_(grad)
    ours = F.conv2d_relu_max_pool2d(image, weight, padding=2)
    theirs = F.max_pool2d(F.relu(F.conv2d(image, weight, padding=2)), 2)
    torch.testing.assert_close(ours, theirs)
    assert ours.stride() == theirs.stride()


def test_no_images() -> None:
    tensors = [torch.randn(shape) for shape in [(0, 3, 8, 8), (4, 3, 3, 3), (4,)]]
    for actual, expected in zip(
        results(F.conv2d_relu_max_pool2d, tensors, {}),
        results(NATIVE.conv2d_relu_max_pool2d, tensors, {}),
        strict=True,
    ):
        assert_same(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_wins(dtype: torch.dtype, layout: str) -> None:
    """A NaN beats every number in its windows, the last NaN of several, and relu keeps it."""
    image, weight = whole(torch.randn(2, 3, 9, 12)), whole(torch.randn(5, 3, 2, 2))
    image[0, 1, 3, 4] = image[0, 2, 3, 5] = image[1, 0, 0, 0] = torch.nan
    tensors = [laid_out(image, layout).to(dtype), weight.to(dtype), whole(torch.randn(5)).to(dtype)]
    arguments = {"padding": 0, "pool_size": 3, "pool_stride": 2}
    ours = results(F.conv2d_relu_max_pool2d, tensors, arguments)
    theirs = results(NATIVE.conv2d_relu_max_pool2d, [t.double() for t in tensors], arguments)
    assert ours[0].isnan().any()
    for i in (0, 1, 3):  # whether 0 * NaN is computed for the weight's gradient is a kernel's choice
        assert_same(ours[i], theirs[i].to(dtype))


def test_result_may_be_overwritten() -> None:
    """As that of max_pool2d may; a changed weight is noticed."""
    image, weight = torch.randn(1, 1, 6, 6), torch.randn(1, 1, 3, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d_relu_max_pool2d(image, weight).sum(), weight)
    output = F.conv2d_relu_max_pool2d(image, weight).add_(1)
    assert torch.equal(torch.autograd.grad(output.sum(), weight)[0], expected)
    output = F.conv2d_relu_max_pool2d(image, weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, layout: str) -> None:
    """Without graph breaks, forward and backward, for two batch sizes."""
    torch._dynamo.reset()
    compiled = torch.compile(F.conv2d_relu_max_pool2d, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    parameters = [laid_out(torch.randn(4, 3, 3, 3), layout), torch.randn(4)]
    for batch in (4, 3):
        tensors = [laid_out(torch.randn(batch, 3, 10, 11), layout), *parameters]
        outputs = [results(f, tensors, {"padding": "same"}) for f in (compiled, F.conv2d_relu_max_pool2d)]
        for actual, expected in zip(*outputs, strict=True):
            assert torch.equal(actual, expected)
        assert outputs[0][0].stride() == outputs[1][0].stride()
