"""The raw operators called with anything: a RuntimeError, never memory that is not theirs."""

from __future__ import annotations

import pytest
import torch
from hostile import HUGE, describe
from operators import CONV2D, OPERATORS, POOL, operators, zeros
from torch import Tensor

# Correct calls, each argument of which is then spoilt in turn; those of networks, ensembles and activations
# by test_network_operators.py, test_ensemble_operators.py and test_activation_operators.py.
CALLS = {
    name: operator.example
    for name, operator in OPERATORS.items()
    if len(operator.example) > 1 and not name.startswith(("network", "activation", "dropout", "ensemble"))
}
STRIDES = (3, 4)
# Where 5 is right too: a large stride leaves one window, more padding makes more of them, and a 5th row or
# column of the input begins no new window.
FIVE_FITS = {
    "conv2d": (*STRIDES, 5, 6, 7, 8),
    "max_pool2d": STRIDES,
    "max_pool2d_indices": (1, 2),
    "max_pool2d_input_grad": (2, 3),
}


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


def spoilt_numbers(name: str, index: int, value: int) -> list[object]:
    spoilt: list[object] = [-1, -(2**62), *HUGE, (value, value), (), 1.5, "1", None]
    if value != 0:
        spoilt.append(0)
    return spoilt if index in FIVE_FITS.get(name, ()) else [*spoilt, 5]


def spoilt(name: str, index: int, value: object) -> list[object]:
    """Values that the call cannot take."""
    if isinstance(value, Tensor):
        return spoilt_tensors(name, index, value)
    return [] if isinstance(value, bool) else spoilt_numbers(name, index, value)


SPOILT = [
    pytest.param(name, index, bad, id=f"{name}, argument {index}: {describe(bad)}")
    for name, arguments in CALLS.items()
    for index, value in enumerate(arguments)
    for bad in spoilt(name, index, value)
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


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d"])
@pytest.mark.parametrize("stride", [5, 1000])
def test_large_strides_leave_one_window(name: str, stride: int) -> None:
    arguments = list(CALLS[name])
    for index in STRIDES:
        arguments[index] = stride
    output = getattr(operators, name)(*arguments)
    assert (output[0] if isinstance(output, tuple) else output).shape[2:] == (1, 1)


def test_sizes_that_overflow_when_multiplied() -> None:
    """Expanded tensors reach sizes whose product is no longer an int64, or which no memory holds."""
    big = zeros(1, 1, 1, 1).expand(2**20, 1, 2**21, 2**21)
    with pytest.raises(RuntimeError):
        operators.conv2d(big, zeros(2**10, 1, 1, 1), None, *CONV2D)
    with pytest.raises(RuntimeError):
        operators.conv2d(zeros(1, 1, 1, 1), zeros(1, 1, 1, 1), None, 1, 1, *[2**28] * 4, 1, 1, 1)
    with pytest.raises(RuntimeError):
        operators.conv2d_input_grad(zeros(0, 1, 1, 1), zeros(1, 1, 1, 1), 2**40, 2**40, *CONV2D)
    with pytest.raises(RuntimeError):
        operators.max_pool2d(big, *POOL, False, True)
    with pytest.raises(RuntimeError):
        operators.linear(zeros(1, 1).expand(2**40, 1), zeros(1, 1).expand(2**40, 1), None)


@pytest.mark.parametrize(
    ("index", "bad"),
    [
        *((0, bad) for bad in (zeros(), zeros(3), zeros(2, 3, dtype=torch.int64), zeros(2, 3).to_sparse())),
        *((1, bad) for bad in (zeros(1), torch.tensor(5), torch.tensor([1, 2]), None)),
        *((4, bad) for bad in (-0.1, 1.1, float("nan"), "1")),
    ],
    ids=str,
)
def test_dropout_spoilt(index: int, bad: object) -> None:
    arguments = list(OPERATORS["dropout_mask"].example)
    arguments[index] = bad
    with pytest.raises(RuntimeError):
        operators.dropout_mask(*arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "dtype", "values"),
    [
        (2, torch.uint8, [3, 4, 255]),
        (3, torch.uint8, [8, 9, 255]),
        (17, torch.int32, [288, 289, -1, 2**31 - 1, -(2**31)]),
    ],
)
def test_argmax_outside_of_its_window(
    kernel: int, dtype: torch.dtype, values: list[int], layout: torch.memory_format
) -> None:
    """A made-up argmax neither reads nor writes outside: the gradient goes into the input or nowhere."""
    size = 2 * kernel + 1
    geometry = (*[kernel] * 4, *[kernel // 2] * 2, 1, 1)
    pooled, _ = operators.max_pool2d(zeros(2, 17, size, size), *geometry, False, True)
    grad_output = torch.ones(pooled.shape).contiguous(memory_format=layout)
    for value in values:
        argmax = torch.full(pooled.shape, value, dtype=dtype).contiguous(memory_format=layout)
        try:
            grad = operators.max_pool2d_input_grad(grad_output, argmax, size, size, *geometry)
        except RuntimeError:
            continue
        assert grad.shape == (2, 17, size, size)
        assert 0 <= grad.sum() <= grad_output.sum()


def test_kernels_with_zero_sizes() -> None:
    with pytest.raises(RuntimeError):
        operators.conv2d(zeros(1, 2, 4, 4), zeros(3, 2, 0, 3), None, *CONV2D)
    with pytest.raises(RuntimeError):
        operators.max_pool2d(zeros(1, 2, 4, 4), 0, *POOL[1:], False, True)
    assert operators.conv2d(zeros(1, 2, 4, 4), zeros(0, 2, 3, 3), None, *CONV2D).shape == (1, 0, 2, 2)
