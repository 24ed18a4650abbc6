"""The fused engine's raw operators: called with anything they raise before memory is touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import on_device
import pytest
import torch
from chains import Chain, chains, fused_without_export
from hostile import HUGE, describe
from hypothesis import given, settings
from operators import (
    ARGMAX,
    ELEMENTS,
    IMAGES,
    LABELS,
    NETWORK,
    NORM_PARAMETERS,
    OPERATORS,
    OUTPUT,
    PARAMETERS,
    PROGRAM,
    SAVED,
    TRAINING,
    operators,
    options,
    zeros,
)
from strategies import laid_out
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves

from lenet_ext.engine.layers import Activation, Conv2d, Layer, Linear, MaxPool2d
from lenet_ext.engine.network import Network

NORMALIZATION = zeros(2, 2)
# Those of each image apart are in test_sample_operators.py.
NAMES = ["network", "network_forward", "network_backward", "network_statistics", "network_train"]
CALLS = {name: OPERATORS[name].example for name in NAMES}
OPTIONS = options(4, 0.1, 0.9)


def program(*layers: tuple[Layer, tuple[int, ...]]) -> str:
    return Network.chain("FusedNet", *layers).program()


RELU = program((Activation("relu"), ()))
LINEAR = program((Linear(), (0,)))
LINES = PROGRAM.split("\n")
# Descriptions that are none, or of another network than the parameters'.
OTHER_PROGRAMS = [
    "",
    "FusedNet",
    "FusedNet\nreturn 0",  # no layer
    "\n".join(LINES[:-1]),  # nothing is returned
    "\n".join(LINES[1:]),  # no name
    "\n".join([*LINES[:3], *LINES[4:]]),  # without the pool: the numbers of values do not fit
    "\n".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
    "\n".join([*LINES, LINES[-1]]),
    program(
        *((node.layer, node.parameters) for node in NETWORK.nodes), (Linear(), (4, 5))
    ),  # two are missing
    program(*((node.layer, node.parameters) for node in reversed(NETWORK.nodes))),
    PROGRAM.replace("conv2d", "conv3d"),
    PROGRAM.replace("conv2d", ""),
    PROGRAM.replace("|", "", 1),
    PROGRAM.replace("0 1 |", "0 0 |"),
    PROGRAM.replace("0 1 |", "1 0 |"),
    PROGRAM.replace("return", "return 0"),  # the images themselves
    PROGRAM.replace("return", "return 6"),
    PROGRAM.replace("\nreturn", "\nloss nothing\nreturn"),
    PROGRAM.replace("\nreturn", "\noptimizer nobody\nreturn"),
    *(
        PROGRAM.replace("\nreturn", f"\noptimizer SGD {bad}\nreturn")
        for bad in ("", "x", "1.0 ", "1 2", "--1")
    ),
]


def spoilt_tensors(tensor: Tensor) -> list[Tensor]:
    shapes = [(), (5,), (7, 9), (1, 1, 1), (3, 5, 7, 9), (1, 1, 5, 5, 5), (2, 2, 7, 8), (0, 3)]
    dtypes = [torch.float64, torch.bfloat16, torch.uint8, torch.int32, torch.int64, torch.bool]
    spoilt = [zeros(*shape, dtype=tensor.dtype) for shape in shapes if shape != tensor.shape]
    spoilt += [tensor.to(dtype) for dtype in dtypes if dtype != tensor.dtype]
    return [*spoilt, tensor.to("meta"), tensor.to_sparse(), tensor.to(torch.complex64)]


def spoilt_programs(program: str) -> list[str]:
    """Others, and `program` with every number in turn replaced by ones that it cannot be."""
    words = re.split("([ \n])", program)
    numbers = [i for i, word in enumerate(words) if word.isdigit()]
    changed = [
        "".join([*words[:i], str(value), *words[i + 1 :]])
        for i in numbers
        for value in (-1, 9, 2**31, *HUGE[1:], -(2**63), 2**64, "", "x", "1x", "1.5")
    ]
    # A layer may do without its bias, and a parameter be of another mode of the network.
    sound = [program.replace(f"{weight} {weight + 1} |", f"{weight}  |") for weight in (0, 2)]
    return OTHER_PROGRAMS + [other for other in changed if other not in sound]


def spoilt(name: str, index: int, value: object) -> list[object]:
    """Values that the call cannot take."""
    argument = getattr(operators, name).default._schema.arguments[index].name
    if isinstance(value, Tensor):
        tensors = spoilt_tensors(value)
        if name in ("network", "network_forward"):  # the only tensor with a batch
            tensors = [tensor for tensor in tensors if tensor.shape != (2, 2, 7, 8)]
        if name == "network_train" and index == 2:  # an order may be of any length
            tensors = [tensor for tensor in tensors if tensor.dtype != torch.int64 or tensor.dim() != 1]
        return [*tensors, "text"]
    if value is PARAMETERS:
        others = [[*PARAMETERS[:i], bad, *PARAMETERS[i + 1 :]] for i in range(4) for bad in
                  spoilt_tensors(PARAMETERS[i])]  # fmt: skip
        more = [[*PARAMETERS, zeros(4)]] if name == "network_train" else []  # whose options are for four
        return [[], PARAMETERS[:3], *more, PARAMETERS[::-1], *others]
    if argument == "counts":
        return [[*value, torch.tensor(0)], value[1:] or [zeros(1)], [zeros()], [torch.zeros(2, dtype=int)]]
    if value is NORM_PARAMETERS:
        others = [[*value[:i], bad, *value[i + 1 :]] for i in range(4) for bad in spoilt_tensors(value[i])]
        return [[], value[:3], *others]
    if isinstance(value, list):  # the state; an empty tensor stands for none
        tensors = [tensor for tensor in spoilt_tensors(value[0]) if tensor.shape != (0, 3)]
        return [[], value * 2, *([tensor] for tensor in tensors)]
    if name == "network_statistics" and isinstance(value, str):  # of whose numbers some are flags
        return [*OTHER_PROGRAMS, *(value.replace("0 1 2 3", bad) for bad in ("0 1 2", "0 1 2 4", "0 1 2 -1"))]
    if isinstance(value, str):
        return list(spoilt_programs(value))
    if argument in ("seed", "seeds"):
        return []  # a network without dropout does not look at them
    if value is None:
        return [NORMALIZATION]  # which is for bytes
    if name == "network_train" and isinstance(value, int):
        return [-1, -(2**63), "1", None]  # 0 stands for all images
    return []


@pytest.mark.skipif(on_device.cuda_kernels, reason="see test_network_cuda.py")
@pytest.mark.parametrize(
    ("index", "bad"),
    [
        *((1, torch.tensor(labels)) for labels in ([4, 0, 0, 0], [0, 0, -1, 0], [0, 0, 2**62, 0])),
        *((2, torch.tensor(order)) for order in ([4], [-1], [0, 2**62])),
    ],
    ids=str,
)
def test_indices_out_of_range(index: int, bad: Tensor) -> None:
    """An IndexError, as of every indexing of torch's."""
    arguments = list(deepcopy(CALLS["network_train"]))
    arguments[index] = bad
    with pytest.raises(IndexError, match=r"(target|order) -?\d+ at position \d is out of range \[0, 4\)"):
        operators.network_train(*arguments)
    assert not any(tensor.any() for tensor in arguments[3])


def text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return ", ".join(map(text, value))
    return value if isinstance(value, str) else describe(value)


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments(name: str) -> None:
    if on_device.cuda_kernels and name == "network_statistics":
        with pytest.raises(RuntimeError, match="on CUDA no batch_norm uses statistics of a batch"):
            getattr(operators, name)(*deepcopy(CALLS[name]))
        return
    result = getattr(operators, name)(*deepcopy(CALLS[name]))
    for tensor in tree_leaves(result):
        assert tensor is None or tensor.numel() > 0


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
    assert not any(tensor.any() for tensor in (*PARAMETERS, *NORM_PARAMETERS))


def bytes_of(images: Tensor) -> Tensor:
    return images.to(torch.uint8)


@pytest.mark.parametrize(
    "bad",
    [None, zeros(2), zeros(2, 3), zeros(2, 2, 1), NORMALIZATION.double(), NORMALIZATION.to("meta")],
    ids=lambda bad: "None" if bad is None else describe(bad),
)
def test_normalization_spoilt(bad: Tensor | None) -> None:
    images = bytes_of(IMAGES)
    operators.network_forward(images, PARAMETERS, PROGRAM, NORMALIZATION, None)
    with pytest.raises(RuntimeError):
        operators.network_forward(images, PARAMETERS, PROGRAM, bad, None)
    with pytest.raises(RuntimeError):
        operators.network_train(
            *(images, LABELS, None, PARAMETERS, [zeros(ELEMENTS)], OPTIONS, [], None, TRAINING, bad, 2)
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "the state must have 4 tensors, got 3"),
        ([zeros(4), zeros(4)], "the state must have 4 tensors, got 5"),
        ([zeros(4, dtype=torch.float64)], "step must be contiguous and float32"),
        ([zeros(8)[::2]], "step must be contiguous and float32"),
        ([zeros(3)], r"step must have the sizes \[4\], got \[3\]"),
    ],
)
def test_counts_of_steps_that_do_not_fit(bad: list[Tensor], message: str) -> None:
    program = NETWORK.program("loss cross_entropy", "optimizer Adam")
    state = [zeros(ELEMENTS) for _ in range(3)]
    row = [1.0, 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 0.0, 0.0]
    arguments = (torch.tensor([row] * 4, dtype=torch.float64), [], None, program, None, 2)
    with pytest.raises(RuntimeError, match=message):
        operators.network_train(IMAGES, LABELS, None, PARAMETERS, [*state, *bad], *arguments)


def test_bytes_need_parameters_and_have_no_gradient() -> None:
    images = bytes_of(IMAGES)
    with pytest.raises(RuntimeError, match="uint8 images need a layer with parameters"):
        operators.network_forward(images, [], RELU, NORMALIZATION, None)
    arguments = ([OUTPUT], images, PARAMETERS, SAVED, ARGMAX, PROGRAM, NORMALIZATION, None)
    assert len(operators.network_backward(*arguments, False, True)) == 5
    with pytest.raises(RuntimeError, match="uint8 images have no gradient"):
        operators.network_backward(*arguments, True, True)


def test_sizes_that_overflow_when_multiplied() -> None:
    big = zeros(1, 1, 1, 1).expand(2**20, 1, 2**20, 2**20)
    with pytest.raises(RuntimeError):
        operators.network_forward(big, [], RELU, None, None)
    with pytest.raises(RuntimeError):
        operators.network(zeros(2**20, 1).expand(2**20, 2**40), [], RELU, None, None)
    weight = zeros(1, 1).expand(2**40, 3)
    with pytest.raises(RuntimeError):
        operators.network_forward(zeros(2**20, 3), [weight], LINEAR, None, None)


def test_empty_weights() -> None:
    for weight in (zeros(0, 3), zeros(3, 0)):
        with pytest.raises(RuntimeError, match="the weight has no element"):
            operators.network_forward(zeros(2, weight.shape[1]), [weight], LINEAR, None, None)


@pytest.mark.parametrize("kernel", [2, 3, 17])
@pytest.mark.parametrize("core", ["conv2d", "none"])
@pytest.mark.parametrize("value", [3, 4, 8, 9, 128, 255])
def test_argmax_outside_of_its_window(kernel: int, core: str, value: int) -> None:
    """A made-up argmax leads nowhere outside: the gradient goes into the input or nowhere."""
    size = 2 * kernel + 1
    parameters = [torch.ones(17, 2, 1, 1)] if core == "conv2d" else []
    pool = MaxPool2d((kernel, kernel), (kernel, kernel), (kernel // 2, kernel // 2), (1, 1), ceil_mode=False)
    point = Conv2d(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    description = program((point, (0,)), (pool, ())) if core == "conv2d" else program((pool, ()))
    images = torch.ones(5, 2, size, size)
    (output,), saved, argmax = operators.network_forward(images, parameters, description, None, None)
    made_up = torch.full_like(argmax, value)
    grads = operators.network_backward(
        [torch.ones_like(output)], images, parameters, saved, made_up, description, None, None, True, True
    )
    assert 0 <= grads[0].sum() <= output.numel() * 2
    for grad in grads[1:]:
        assert 0 <= grad.sum() <= output.numel() * 2


def check_fake(operator: Callable[..., Any], *args: Any) -> list[Any]:
    real = operator(*args)
    with FakeTensorMode() as mode:

        def fake_of(value: Any) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return [mode.from_tensor(tensor) for tensor in value]
            return mode.from_tensor(value) if isinstance(value, Tensor) else value

        fake = operator(*map(fake_of, args))
    for actual, foretold in zip(tree_leaves(real), tree_leaves(fake), strict=True):
        assert (foretold.shape, foretold.dtype) == (actual.shape, actual.dtype)
        assert actual.numel() == 0 or foretold.stride() == actual.stride()
    return list(real)


@settings(max_examples=25)
@given(chains())
def test_fake_kernels(chain: Chain) -> None:
    fused = fused_without_export(chain)
    images = laid_out(chain.images(torch.float32), "channels_last" if len(chain.shape) == 4 else "contiguous")
    parameters = [parameter.detach() for parameter in fused.parameters()]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = [images.to(dtype), [p.to(dtype) for p in parameters]]
        program = fused._network.program()
        check_fake(operators.network, *tensors, program, None, None)
        (output,), saved, argmax = check_fake(operators.network_forward, *tensors, program, None, None)
        for wanted in ((True, True), (False, True), (True, False)):
            check_fake(
                *(operators.network_backward, [output], *tensors, saved, argmax, program, None, None, *wanted)
            )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("images", [IMAGES, bytes_of(IMAGES)], ids=["float32", "uint8"])
def test_opcheck(layout: str, images: Tensor) -> None:
    is_bytes = images.dtype == torch.uint8
    normalization = NORMALIZATION if is_bytes else None
    images = images.contiguous(memory_format=torch.channels_last) if is_bytes else laid_out(images, layout)
    parameters = [laid_out(PARAMETERS[0], layout), *PARAMETERS[1:]]
    for operator in (operators.network, operators.network_forward):
        torch.library.opcheck(operator.default, (images, parameters, PROGRAM, normalization, None))
    torch.library.opcheck(
        operators.network_backward.default,
        ([OUTPUT], images, parameters, SAVED, ARGMAX, PROGRAM, normalization, None, not is_bytes, True),
    )


@pytest.mark.parametrize("name", ["network", "network_forward", "network_backward"])
def test_fake_kernels_want_one_device(name: str) -> None:
    arguments = [
        [value.to("meta") for value in argument] if argument is PARAMETERS else argument
        for argument in CALLS[name]
    ]
    with pytest.raises(RuntimeError, match="one device"):
        getattr(operators, name)(*arguments)
