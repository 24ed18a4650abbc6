"""The fused engine's raw operators: called with anything they raise before memory is touched."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import on_device
import pytest
import torch
from chains import Chain, chains, fused_without_export
from hostile import HUGE, describe
from hypothesis import given, settings
from strategies import laid_out
from torch import Tensor
from torch._subclasses import FakeTensorMode

import lenet_ext  # noqa: F401  registers the operators

operators = torch.ops.lenet_ext
CONV = [1, 1, 1, 1, 0, 2, 1, 0, 1, 0, 1, 1, 1, 1]  # core, bias, relu, pooled, flattened; geometry
POOL = [2, 3, 2, 2, 1, 0, 1, 2, 1]
LINEAR = [2, 1, 0, 0, 0]
PROGRAM = CONV + POOL + LINEAR
OUT_OF_PROGRAM: list[list[int]] = [
    [],  # no stage
    PROGRAM[:-1],
    PROGRAM[:7],
    [*PROGRAM, 0],
    LINEAR + CONV + POOL,
    [*CONV[:3], 0, *CONV[4:], *LINEAR],  # pool left out: linear meets more features
    PROGRAM + LINEAR,  # two parameters are missing
    CONV + POOL,  # two are left over
    [3, *PROGRAM[1:]],
    [0, *PROGRAM[1:]],
]


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


IMAGES = zeros(4, 2, 7, 8)  # four: the taps then fill whole words, and none of them is left as it was
PARAMETERS = [zeros(5, 2, 3, 2), zeros(5), zeros(4, 30), zeros(4)]
LABELS = torch.tensor([0, 3, 1, 2])
NORMALIZATION = zeros(2, 2)
OUTPUT, SAVED, TAPS = operators.net_forward(IMAGES, PARAMETERS, PROGRAM, None)
OPTIONS = (2, 0.1, 0.9, 0.01, True, 0)
CALLS: dict[str, tuple[Any, ...]] = {
    "net": (IMAGES, PARAMETERS, PROGRAM, None),
    "net_forward": (IMAGES, PARAMETERS, PROGRAM, None),
    "net_backward": (OUTPUT, IMAGES, PARAMETERS, SAVED, TAPS, PROGRAM, None, True, True),
    "net_train": (IMAGES, LABELS, torch.tensor([2, 0]), PARAMETERS, zeros(189), PROGRAM, None, *OPTIONS),
}


def spoilt_tensors(tensor: Tensor) -> list[Tensor]:
    shapes = [(), (5,), (7, 9), (1, 1, 1), (3, 5, 7, 9), (1, 1, 5, 5, 5), (2, 2, 7, 8), (0, 3)]
    dtypes = [torch.float64, torch.bfloat16, torch.uint8, torch.int32, torch.int64, torch.bool]
    spoilt = [zeros(*shape, dtype=tensor.dtype) for shape in shapes if shape != tensor.shape]
    spoilt += [tensor.to(dtype) for dtype in dtypes if dtype != tensor.dtype]
    return [*spoilt, tensor.to("meta"), tensor.to_sparse(), tensor.to(torch.complex64)]


def spoilt_program() -> list[list[int]]:
    changed = [
        [*PROGRAM[:i], value, *PROGRAM[i + 1 :]]
        for i in range(len(PROGRAM))
        for value in (-1, 9, 2**31, *HUGE[1:], -(2**63))
    ]
    return OUT_OF_PROGRAM + changed


def spoilt(name: str, index: int, value: object) -> list[object]:
    """Values that the call cannot take."""
    if isinstance(value, Tensor):
        tensors = spoilt_tensors(value)
        if name in ("net", "net_forward"):  # the only tensor with a batch
            tensors = [tensor for tensor in tensors if tensor.shape != (2, 2, 7, 8)]
        if name == "net_train" and index == 2:  # an order may be of any length
            tensors = [tensor for tensor in tensors if tensor.dtype != torch.int64 or tensor.dim() != 1]
            tensors += [] if on_device.cuda_kernels else [torch.tensor([i]) for i in (4, -1, 2**62)]
        if name == "net_train" and index == 1 and not on_device.cuda_kernels:  # see test_net_cuda.py
            tensors += [
                torch.tensor([0, 4, 0, 0]),
                torch.tensor([-1, 0, 0, 0]),
                torch.tensor([0, 0, 0, 2**62]),
            ]
        return [*tensors, "text"]
    if value is PARAMETERS:
        others = [[*PARAMETERS[:i], bad, *PARAMETERS[i + 1 :]] for i in range(4) for bad in
                  spoilt_tensors(PARAMETERS[i])]  # fmt: skip
        return [[], PARAMETERS[:3], [*PARAMETERS, zeros(4)], PARAMETERS[::-1], *others]
    if value is PROGRAM:
        return list(spoilt_program())
    if value is None:
        return [NORMALIZATION]  # which is for bytes
    if name == "net_train" and index == 7:
        return [-1, -(2**63), "1", None]  # 0 stands for all images
    if name == "net_train" and index == 12:
        return [-1, 1, 2, 2**62]  # 1 is mse: LABELS do not fit
    return []


def text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return ", ".join(map(text, value))
    return describe(value)


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments(name: str) -> None:
    result = getattr(operators, name)(*deepcopy(CALLS[name]))
    for tensor in result if isinstance(result, (tuple, list)) else [result]:
        assert tensor.numel() > 0


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in CALLS for i in range(len(CALLS[name]))])
def test_one_argument_spoilt(name: str, index: int) -> None:
    arguments, accepted = CALLS[name], []
    for bad in spoilt(name, index, arguments[index]):
        try:
            getattr(operators, name)(*arguments[:index], bad, *arguments[index + 1 :])
            accepted.append(text(bad))
        except RuntimeError:
            continue
    assert accepted == []
    assert not any(tensor.any() for tensor in PARAMETERS)


def bytes_of(images: Tensor) -> Tensor:
    return images.to(torch.uint8)


@pytest.mark.parametrize(
    "bad",
    [None, zeros(2), zeros(2, 3), zeros(2, 2, 1), NORMALIZATION.double(), NORMALIZATION.to("meta")],
    ids=lambda bad: "None" if bad is None else describe(bad),
)
def test_normalization_spoilt(bad: Tensor | None) -> None:
    images = bytes_of(IMAGES)
    operators.net_forward(images, PARAMETERS, PROGRAM, NORMALIZATION)
    with pytest.raises(RuntimeError):
        operators.net_forward(images, PARAMETERS, PROGRAM, bad)
    with pytest.raises(RuntimeError):
        operators.net_train(images, LABELS, None, PARAMETERS, zeros(189), PROGRAM, bad, *OPTIONS)


def test_bytes_need_parameters_and_have_no_gradient() -> None:
    images = bytes_of(IMAGES)
    with pytest.raises(RuntimeError, match="uint8 images need a stage with parameters"):
        operators.net_forward(images, [], [0, 0, 1, 0, 0], NORMALIZATION)
    arguments = (OUTPUT, images, PARAMETERS, SAVED, TAPS, PROGRAM, NORMALIZATION)
    assert len(operators.net_backward(*arguments, False, True)) == 5
    with pytest.raises(RuntimeError, match="uint8 images have no gradient"):
        operators.net_backward(*arguments, True, True)


def test_sizes_that_overflow_when_multiplied() -> None:
    big = zeros(1, 1, 1, 1).expand(2**20, 1, 2**20, 2**20)
    with pytest.raises(RuntimeError):
        operators.net_forward(big, [], [0, 0, 1, 0, 0], None)
    with pytest.raises(RuntimeError):
        operators.net(zeros(2**20, 1).expand(2**20, 2**40), [], [0, 0, 1, 0, 0], None)
    weight = zeros(1, 1).expand(2**40, 3)
    with pytest.raises(RuntimeError):
        operators.net_forward(zeros(2**20, 3), [weight], [2, 0, 0, 0, 0], None)


def test_empty_weights() -> None:
    for weight in (zeros(0, 3), zeros(3, 0)):
        with pytest.raises(RuntimeError, match="the weight has no element"):
            operators.net_forward(zeros(2, weight.shape[1]), [weight], [2, 0, 0, 0, 0], None)


@pytest.mark.parametrize("kernel", [2, 3, 17])
@pytest.mark.parametrize("core", ["conv2d", "none"])
@pytest.mark.parametrize("value", [3, 4, 8, 9, 128, 255])
def test_taps_outside_of_their_window(kernel: int, core: str, value: int) -> None:
    """Made-up taps lead nowhere outside: the gradient goes into the input or nowhere."""
    size = 2 * kernel + 1
    parameters = [torch.ones(17, 2, 1, 1)] if core == "conv2d" else []
    geometry = [1, 1, 0, 0, 0, 0, 1, 1, 1] if core == "conv2d" else []
    program = [int(core == "conv2d"), 0, 0, 1, 0, *geometry, *[kernel] * 4, *[kernel // 2] * 2, 1, 1, 0]
    images = torch.ones(5, 2, size, size)
    output, saved, taps = operators.net_forward(images, parameters, program, None)
    made_up = torch.full_like(taps, value)
    grads = operators.net_backward(
        torch.ones_like(output), images, parameters, saved, made_up, program, None, True, True
    )
    assert 0 <= grads[0].sum() <= output.numel() * 2
    for grad in grads[1:]:
        assert 0 <= grad.sum() <= output.numel() * 2


def check_fake(operator: Callable[..., Any], *args: Any) -> list[Tensor]:
    real = operator(*args)
    with FakeTensorMode() as mode:

        def fake_of(value: Any) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return [mode.from_tensor(tensor) for tensor in value]
            return mode.from_tensor(value) if isinstance(value, Tensor) else value

        fake = operator(*map(fake_of, args))
    for actual, foretold in zip(real, fake, strict=True):
        assert (foretold.shape, foretold.dtype) == (actual.shape, actual.dtype)
        assert actual.numel() == 0 or foretold.stride() == actual.stride()
    return list(real)


@settings(max_examples=25)
@given(chains())
def test_fake_kernels(chain: Chain) -> None:
    fused = fused_without_export(chain.model)
    images = laid_out(chain.images(torch.float32), "channels_last" if len(chain.shape) == 4 else "contiguous")
    parameters = [parameter.detach() for parameter in fused._chain_parameters()]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = [images.to(dtype), [p.to(dtype) for p in parameters]]
        check_fake(operators.net, *tensors, fused._program, None)
        output, saved, taps = check_fake(operators.net_forward, *tensors, fused._program, None)
        for wanted in ((True, True), (False, True), (True, False)):
            check_fake(operators.net_backward, output, *tensors, saved, taps, fused._program, None, *wanted)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("images", [IMAGES, bytes_of(IMAGES)], ids=["float32", "uint8"])
def test_opcheck(layout: str, images: Tensor) -> None:
    is_bytes = images.dtype == torch.uint8
    normalization = NORMALIZATION if is_bytes else None
    images = images.contiguous(memory_format=torch.channels_last) if is_bytes else laid_out(images, layout)
    parameters = [laid_out(PARAMETERS[0], layout), *PARAMETERS[1:]]
    for operator in (operators.net, operators.net_forward):
        torch.library.opcheck(operator.default, (images, parameters, PROGRAM, normalization))
    torch.library.opcheck(
        operators.net_backward.default,
        (OUTPUT, images, parameters, SAVED, TAPS, PROGRAM, normalization, not is_bytes, True),
    )


@pytest.mark.parametrize("name", ["net", "net_forward", "net_backward"])
def test_fake_kernels_want_one_device(name: str) -> None:
    arguments = [
        [value.to("meta") for value in argument] if argument is PARAMETERS else argument
        for argument in CALLS[name]
    ]
    with pytest.raises(RuntimeError, match="one device"):
        getattr(operators, name)(*arguments)
