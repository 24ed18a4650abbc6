"""The raw operators called with anything: a RuntimeError, never memory that is not theirs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

operators = torch.ops.lenet_ext
HUGE = [2**31, 2**40, 2**62, 2**63 - 1]
ONES, NO_PADDING, NO_POOL_PADDING = (1, 1), (0, 0, 0, 0), (0, 0)
GEOMETRY = (ONES, NO_PADDING, ONES, 1)
POOL = ((2, 2), (2, 2), NO_POOL_PADDING, ONES)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def taps(*shape: int) -> Tensor:
    return zeros(*shape, dtype=torch.uint8)


# Correct calls, each argument of which is then spoilt in turn.
CALLS: dict[str, tuple] = {
    "conv2d": (zeros(1, 2, 4, 4), zeros(3, 2, 3, 3), zeros(3), *GEOMETRY),
    "conv2d_input_grad": (zeros(1, 3, 2, 2), zeros(3, 2, 3, 3), (4, 4), *GEOMETRY),
    "conv2d_weight_grad": (zeros(1, 3, 2, 2), zeros(1, 2, 4, 4), (3, 3), *GEOMETRY, True),
    "max_pool2d": (zeros(1, 2, 4, 4), *POOL, False, True),
    "max_pool2d_indices": (taps(1, 2, 2, 2), (4, 4), *POOL),
    "max_pool2d_input_grad": (zeros(1, 2, 2, 2), taps(1, 2, 2, 2), (4, 4), *POOL),
    "linear": (zeros(2, 3), zeros(4, 3), zeros(4)),
    "linear_input_grad": (zeros(2, 4), zeros(4, 3)),
    "linear_weight_grad": (zeros(2, 4), zeros(2, 3), True),
    "relu_grad": (zeros(2, 3), zeros(2, 3)),
}
STRIDE_INDEX = {"conv2d": 3, "max_pool2d": 2}


def spoilt_tensors(name: str, index: int, tensor: Tensor) -> list[Tensor]:
    """Tensors of shapes, dtypes and devices that do not fit the call's other tensors."""
    shapes = [(), (5,), (7, 9), (1, 1, 1), (3, 5, 7, 9), (1, 1, 5, 5, 5)]
    dtypes = [torch.float64, torch.bfloat16, torch.int32, torch.bool, torch.complex64]
    if name == "max_pool2d":
        shapes.remove((3, 5, 7, 9))
    if name.startswith("max_pool2d") and index == 0 and tensor.is_floating_point():
        dtypes = dtypes[2:]  # the only floating-point tensor of the call: its dtype is free
    spoilt = [zeros(*shape, dtype=tensor.dtype) for shape in shapes] + [tensor.to(dtype) for dtype in dtypes]
    has_others = name not in ("max_pool2d", "max_pool2d_indices")
    return [*spoilt, tensor.to("meta")] if has_others else spoilt


def spoilt_numbers(value: tuple[int, ...] | int) -> list[object]:
    if isinstance(value, int):
        return [0, -1, 5, *HUGE]
    wrong_lengths = [(), (*value, 1), value[:-1], value * 3]
    wrong_last = [(*value[:-1], bad) for bad in (-1, -(2**62), *HUGE)]
    wrong_first = [(bad, *value[1:]) for bad in (-3, *HUGE)]
    return [*wrong_lengths, *wrong_last, *wrong_first]


def spoilt(name: str, index: int, value: object) -> list[object]:
    """Values of the right type that the call cannot take."""
    if isinstance(value, Tensor):
        return spoilt_tensors(name, index, value)
    return [] if isinstance(value, bool) else spoilt_numbers(value)


def is_large_stride(name: str, index: int, value: object) -> bool:
    """Which is legal where it leaves one window: see the test below."""
    return STRIDE_INDEX.get(name) == index and isinstance(value, tuple) and len(value) == 2 and min(value) > 0


def describe(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype} {value.device}" if isinstance(value, Tensor) else str(value)


SPOILT = [
    pytest.param(name, index, bad, id=f"{name}, argument {index}: {describe(bad)}")
    for name, arguments in CALLS.items()
    for index, value in enumerate(arguments)
    for bad in spoilt(name, index, value)
    if not is_large_stride(name, index, bad)
]


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments(name: str) -> None:
    getattr(operators, name)(*CALLS[name])


@pytest.mark.parametrize(("name", "index", "bad"), SPOILT)
def test_one_argument_spoilt(name: str, index: int, bad: object) -> None:
    """The error names the operator, unless torch has found it first."""
    arguments = (*CALLS[name][:index], bad, *CALLS[name][index + 1 :])
    with pytest.raises(RuntimeError):
        getattr(operators, name)(*arguments)


@pytest.mark.parametrize("name", STRIDE_INDEX)
@pytest.mark.parametrize("stride", [5, 1000])
def test_large_strides_leave_one_window(name: str, stride: int) -> None:
    index = STRIDE_INDEX[name]
    output = getattr(operators, name)(*CALLS[name][:index], (stride, stride), *CALLS[name][index + 1 :])
    assert (output[0] if isinstance(output, tuple) else output).shape[2:] == (1, 1)


def test_sizes_that_overflow_when_multiplied() -> None:
    """Expanded tensors reach sizes whose product is no longer an int64, or which no memory holds."""
    big = zeros(1, 1, 1, 1).expand(2**20, 1, 2**21, 2**21)
    with pytest.raises(RuntimeError):
        operators.conv2d(big, zeros(2**10, 1, 1, 1), None, *GEOMETRY)
    with pytest.raises(RuntimeError):
        operators.conv2d(zeros(1, 1, 1, 1), zeros(1, 1, 1, 1), None, ONES, (2**28,) * 4, ONES, 1)
    with pytest.raises(RuntimeError):
        operators.conv2d_input_grad(zeros(0, 1, 1, 1), zeros(1, 1, 1, 1), (2**40, 2**40), *GEOMETRY)
    with pytest.raises(RuntimeError):
        operators.max_pool2d(big, *POOL, False, True)
    with pytest.raises(RuntimeError):
        operators.linear(zeros(1, 1).expand(2**40, 1), zeros(1, 1).expand(2**40, 1), None)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "dtype", "values"),
    [
        (2, torch.uint8, [3, 4, 255]),
        (3, torch.uint8, [8, 9, 255]),
        (17, torch.int32, [288, 289, -1, 2**31 - 1, -(2**31)]),
    ],
)
def test_taps_outside_of_their_window(
    kernel: int, dtype: torch.dtype, values: list[int], layout: torch.memory_format
) -> None:
    """A made-up argmax neither reads nor writes outside: the gradient goes into the input or nowhere."""
    size = 2 * kernel + 1
    geometry = ((kernel, kernel), (kernel, kernel), (kernel // 2, kernel // 2), ONES)
    pooled, _ = operators.max_pool2d(zeros(2, 17, size, size), *geometry, False, True)
    grad_output = torch.ones(pooled.shape).contiguous(memory_format=layout)
    for value in values:
        argmax = torch.full(pooled.shape, value, dtype=dtype).contiguous(memory_format=layout)
        try:
            grad = operators.max_pool2d_input_grad(grad_output, argmax, (size, size), *geometry)
        except RuntimeError:
            continue
        assert grad.shape == (2, 17, size, size)
        assert 0 <= grad.sum() <= grad_output.sum()


def test_kernels_with_zero_sizes() -> None:
    with pytest.raises(RuntimeError):
        operators.conv2d(zeros(1, 2, 4, 4), zeros(3, 2, 0, 3), None, *GEOMETRY)
    with pytest.raises(RuntimeError):
        operators.max_pool2d(zeros(1, 2, 4, 4), (0, 2), (2, 2), NO_POOL_PADDING, ONES, False, True)
    assert operators.conv2d(zeros(1, 2, 4, 4), zeros(0, 2, 3, 3), None, *GEOMETRY).shape == (1, 0, 2, 2)
