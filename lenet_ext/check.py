"""Comparing every layer and the LeNet with native torch, forward and backward: what `lenet-ext check` prints.

Both are measured against native torch in float64 on the same inputs. Ours passes if its error is within the
limit that rounding sets (`rounding_limit`), or at most twice native torch's own: rounding can move a maximum
to its neighbour in a pooling window, and then neither is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import lenet_ext.functional
import lenet_ext.nn
from lenet_ext.models import LeNet

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RESULT_UNITS = 2  # two results rounded to the dtype lie at most one eps apart; 2 leaves room for casts inside
LENET_LAYERS = 5  # with parameters; each adds its own rounding
NATIVE_ERRORS = 2


def _conv2d_relu_max_pool2d(*args: Any, pool_size: Any = 2, pool_stride: Any = None, **kwargs: Any) -> Tensor:
    functions = torch.nn.functional
    activation = functions.relu(functions.conv2d(*args, **kwargs))
    return functions.max_pool2d(activation, pool_size, pool_stride)


def _linear_relu(*args: Any, **kwargs: Any) -> Tensor:
    return torch.nn.functional.relu(torch.nn.functional.linear(*args, **kwargs))


# Native torch's function, or composition of functions, for each one of `functional`.
NATIVE = SimpleNamespace(
    conv2d=torch.nn.functional.conv2d,
    conv2d_relu_max_pool2d=_conv2d_relu_max_pool2d,
    linear=torch.nn.functional.linear,
    linear_relu=_linear_relu,
    max_pool2d=torch.nn.functional.max_pool2d,
    relu=torch.nn.functional.relu,
)


@dataclass(frozen=True)
class Case:
    """A function of `functional`, the shapes of its tensor arguments, and its other arguments."""

    label: str
    function: str
    shapes: Sequence[tuple[int, ...]]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def longest_sum(self) -> int:
        """An upper bound on the terms in any sum of forward and backward."""
        if len(self.shapes) == 1:
            return 1
        images, weight = self.shapes[:2]
        places = math.prod(images) // images[1]  # that a weight is applied at, if none is lost at the border
        return max(places, math.prod(weight) // min(weight[:2]))


def _conv2d(label: str, input: tuple[int, ...], weight: tuple[int, ...], **arguments: Any) -> Case:
    return Case(f"conv2d {label}", "conv2d", [input, weight, weight[:1]], arguments)


CASES = (
    _conv2d("5x5, 3 to 6", (4, 3, 32, 32), (6, 3, 5, 5)),
    _conv2d("5x5, 6 to 16", (4, 6, 14, 14), (16, 6, 5, 5)),
    _conv2d("3x3, stride 2", (3, 8, 15, 17), (12, 8, 3, 3), stride=2, padding=1),
    _conv2d("3x3, depthwise", (3, 8, 15, 17), (8, 1, 3, 3), padding="same", groups=8),
    _conv2d("3x3, dilation 2", (2, 4, 19, 19), (6, 2, 3, 3), dilation=2, groups=2),
    Case("max_pool2d 2x2", "max_pool2d", [(4, 6, 28, 28)], {"kernel_size": 2}),
    Case(
        "max_pool2d 3x3, ceil mode",
        "max_pool2d",
        [(4, 5, 15, 17)],
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    ),
    Case("linear 400 to 120", "linear", [(8, 400), (120, 400), (120,)]),
    Case("linear 84 to 10", "linear", [(5, 84), (10, 84), (10,)]),
    Case("relu", "relu", [(8, 16, 10, 10)]),
    Case("conv2d, relu, pool 2x2", "conv2d_relu_max_pool2d", [(4, 3, 32, 32), (6, 3, 5, 5), (6,)]),
    Case(
        "conv2d, relu, pool 3x3",
        "conv2d_relu_max_pool2d",
        [(3, 8, 15, 17), (12, 8, 3, 3), (12,)],
        {"padding": "same", "pool_size": 3, "pool_stride": 2},
    ),
    Case("linear, relu", "linear_relu", [(8, 400), (120, 400), (120,)]),
)


@dataclass(frozen=True)
class Comparison:
    """One layer, dtype and direction; an error is the largest difference over the largest exact value."""

    layer: str
    direction: str  # "forward" or "backward"
    dtype: torch.dtype
    error: float
    native_error: float
    limit: float
    failure: str = ""  # what the layer raised instead of a result

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # false for NaN


def rounding_limit(dtype: torch.dtype, longest_sum: int) -> float:
    """How far two right results may lie apart, relative to the largest value.

    Each rounds its result to `dtype`, and sums in float32 or wider. The error of adding n terms one by one
    grows as the square root of n (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, on the
    statistics of summation). In float64 that includes the reference's own error.
    """
    sum_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return RESULT_UNITS * torch.finfo(dtype).eps + math.sqrt(longest_sum) * torch.finfo(sum_dtype).eps


Results = tuple[Tensor, list[Tensor]]  # a forward result, and the gradients of all inputs


def compare_all(device: str) -> Iterator[Comparison]:
    """Compare every case and the LeNet in every dtype on `device`, forward and backward."""
    for dtype in DTYPES:
        for case in CASES:
            yield from _compare_case(case, dtype, device)
        yield from _compare_lenet(dtype, device)


def _compare_case(case: Case, dtype: torch.dtype, device: str) -> list[Comparison]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(device, dtype) for shape in case.shapes]

    def results(functions: ModuleType | SimpleNamespace, dtype: torch.dtype) -> Results:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = getattr(functions, case.function)(*leaves, **case.arguments)
        slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(
            device, inputs[0].dtype
        )
        return output, list(torch.autograd.grad(output, leaves, slope.to(dtype)))

    return _compare(
        case.label,
        dtype,
        rounding_limit(dtype, case.longest_sum),
        ours=lambda: results(lenet_ext.functional, dtype),
        native=results(NATIVE, dtype),
        exact=results(NATIVE, torch.float64),
    )


def _compare_lenet(dtype: torch.dtype, device: str) -> list[Comparison]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=generator).to(device, dtype)
    labels = torch.arange(8, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = LeNet(layers=torch.nn).to(dtype).state_dict()

    def results(layers: ModuleType, dtype: torch.dtype) -> Results:
        model = LeNet(layers=layers)
        model.load_state_dict(weights)
        model.to(device, dtype)
        output = model(images.to(dtype))
        loss = torch.nn.functional.cross_entropy(output, labels)
        return output, list(torch.autograd.grad(loss, list(model.parameters())))

    return _compare(
        "LeNet",
        dtype,
        LENET_LAYERS * rounding_limit(dtype, longest_sum=8 * 28 * 28),  # the gradient of conv1's weight
        ours=lambda: results(lenet_ext.nn, dtype),
        native=results(torch.nn, dtype),
        exact=results(torch.nn, torch.float64),
    )


def _compare(
    name: str,
    dtype: torch.dtype,
    limit: float,
    *,
    ours: Callable[[], Results],
    native: Results,
    exact: Results,
) -> list[Comparison]:
    failure = ""
    errors = (math.inf, math.inf)
    try:
        errors = _errors(ours(), exact)
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        failure = str(error).partition("\n")[0]
    native_errors = _errors(native, exact)
    return [
        Comparison(
            name,
            direction,
            dtype,
            error,
            native_error,
            max(limit, NATIVE_ERRORS * native_error),
            failure,
        )
        for direction, error, native_error in zip(("forward", "backward"), errors, native_errors, strict=True)
    ]


def _errors(results: Results, exact: Results) -> tuple[float, float]:
    (output, gradients), (exact_output, exact_gradients) = results, exact
    pairs = zip(gradients, exact_gradients, strict=True)
    return _error(output, exact_output), max(_error(ours, theirs) for ours, theirs in pairs)


def _error(result: Tensor, exact: Tensor) -> float:
    if result.shape != exact.shape:
        return math.inf
    difference = result.detach().double() - exact.detach()
    return float(difference.abs().max() / exact.detach().abs().max())
