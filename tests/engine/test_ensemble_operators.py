"""The raw operators of ensembles: called with anything they raise before memory is touched."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from chains import Chain, chains
from ensembles import MEMBERS, assert_same, of_chain
from hypothesis import given, settings
from operators import (
    ELEMENTS,
    IMAGES,
    LABELS,
    NORM,
    NORM_PARAMETERS,
    OPERATORS,
    ORDER,
    PROGRAM,
    RANGES,
    SGD,
    STACKED,
    TRAINING,
    operators,
    options,
    zeros,
)
from strategies import laid_out
from test_network_operators import (
    NORMALIZATION,
    RELU,
    bytes_of,
    check_fake,
    spoilt_programs,
    spoilt_tensors,
    text,
)
from torch import Tensor

CALLS = {name: OPERATORS[name].example for name in ("ensemble", "ensemble_train")}
OPTIONS = options(4, 0.1, 0.9)[None]
# Of a member, of three images.
BAD_RANGES = [[0, 4], [-1, 1], [1, 0], [2**62, 2**62], [-(2**63), 1], [4, 4]]


def spoilt(name: str, argument: str, value: object) -> list[object]:
    """Values that the call cannot take."""
    if argument == "parameters":
        others = [
            [*STACKED[:i], bad, *STACKED[i + 1 :]] for i in range(4) for bad in spoilt_tensors(STACKED[i])
        ]
        of_one = [parameter[0] for parameter in STACKED]
        of_more = [torch.cat([parameter, parameter]) for parameter in STACKED]
        more = [[*STACKED, zeros(2, 4)]] if name == "ensemble_train" else []  # whose options are for four
        return [[], STACKED[:3], *more, STACKED[::-1], of_one, of_more, *others]
    if argument == "images" and name == "ensemble":  # the only tensor with a batch, of any even number
        return [tensor for tensor in spoilt_tensors(IMAGES) if tensor.shape != (2, 2, 7, 8)]
    if argument == "order":  # which may be longer
        return [bad for bad in spoilt_tensors(ORDER) if bad.dtype != torch.int64 or bad.dim() != 1]
    if argument == "ranges":
        changed = [
            zeros(2, 3).long(),
            RANGES.t().contiguous().t(),
            *(torch.tensor([[0, 1], bad]) for bad in BAD_RANGES),
        ]
        return [*spoilt_tensors(RANGES), RANGES[:1], RANGES.repeat(2, 1), *changed]
    if argument == "options":
        return [*spoilt_tensors(torch.zeros(2, 4, 1 + SGD).double()), zeros(3, 4, 1 + SGD).double()]
    if isinstance(value, Tensor):
        return [*spoilt_tensors(value), "text"]
    if argument == "state":  # an empty tensor stands for none
        tensors = [tensor for tensor in spoilt_tensors(zeros(2 * ELEMENTS)) if tensor.shape != (0, 3)]
        return [[], [zeros(ELEMENTS)], [zeros(2 * ELEMENTS)] * 2, *([tensor] for tensor in tensors)]
    if argument == "counts":
        return [[torch.tensor(0)], [torch.zeros(2, dtype=torch.int64)]]
    if argument == "members":
        return [0, 1, 3, 4, -1, -(2**63), 2**62, "1", None]
    if argument == "batch_size":
        return [0, -1, -(2**63), "1", None]
    if argument == "program":
        return list(spoilt_programs(value))  # type: ignore[arg-type]
    return [] if argument in ("own_images", "seeds") else [NORMALIZATION]


def arguments_of(name: str) -> list[str]:
    return [argument.name for argument in getattr(operators, name).default._schema.arguments]


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments(name: str) -> None:
    result = getattr(operators, name)(*deepcopy(CALLS[name]))
    outputs = [result] if isinstance(result, Tensor) else result
    assert all(len(output) == 2 and output.numel() > 0 for output in outputs)


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in CALLS for i in range(len(CALLS[name]))])
def test_one_argument_spoilt(name: str, index: int) -> None:
    arguments, accepted = CALLS[name], []
    for bad in spoilt(name, arguments_of(name)[index], arguments[index]):
        try:
            getattr(operators, name)(*arguments[:index], bad, *arguments[index + 1 :])
            accepted.append(text(bad))
        except RuntimeError:
            continue
        except IndexError:
            assert arguments_of(name)[index] in ("targets", "order")
    assert accepted == []
    assert not any(tensor.any() for tensor in STACKED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: torch.tensor([0, 0, 4, 0])}, r"target 4 at position 2 is out of range \[0, 4\)"),
        ({2: torch.tensor([0, 1, -1])}, r"order -1 at position 2 is out of range \[0, 4\)"),
        ({2: None, 1: torch.tensor([0, 0, 0, -7])}, r"target -7 at position 3 is out of range"),
    ],
)
def test_indices_out_of_range(changes: dict[int, Any], message: str) -> None:
    """An IndexError, as of every indexing of torch's."""
    arguments = list(deepcopy(CALLS["ensemble_train"]))
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(IndexError, match=message):
        operators.ensemble_train(*arguments)
    assert not any(tensor.any() for tensor in arguments[4])


def test_what_the_errors_say() -> None:
    rest = (STACKED, [zeros(0)], OPTIONS, [], None, TRAINING, None, 2)
    ensemble = operators.ensemble

    def train(ranges: Tensor) -> Callable[[], Tensor]:
        return lambda: operators.ensemble_train(IMAGES, LABELS, None, ranges, *rest)

    calls: dict[str, Callable[[], Any]] = {
        "5 images cannot be those of 2 members": lambda: ensemble(
            zeros(5, 2, 7, 8), STACKED, 2, True, PROGRAM, None, None
        ),
        "members must be at least 0, got -1": lambda: operators.ensemble(
            IMAGES, [], -1, False, RELU, None, None
        ),
        r"a member takes \[0, 5\) of 4 images": train(torch.tensor([[0, 5], [0, 4]])),
        r"ranges must be \(members, 2\), contiguous, on the CPU": train(torch.zeros(2, 3, dtype=torch.int64)),
        r"a parameter must be \(1, ...\), one for each member, got \[2, 5, 2, 3, 2\]": train(RANGES[:1]),
    }
    for message, call in calls.items():
        with pytest.raises(RuntimeError, match=message):
            call()


def test_counts_of_batches_of_all_members() -> None:
    norm = NORM.replace("\nreturn", "\nloss mse\noptimizer SGD\nreturn")
    stacked = [torch.ones(2, *parameter.shape) for parameter in NORM_PARAMETERS]
    given, state = (IMAGES, IMAGES, None, RANGES, stacked), ([zeros(0)], options(4, 0.1)[None])
    more = (None, norm, None, 2)
    for counts in ([], [torch.tensor(0)], [torch.zeros(3, dtype=torch.int64)], [zeros(2)]):
        with pytest.raises(RuntimeError, match="count"):
            operators.ensemble_train(*given, *state, counts, *more)
    count = torch.tensor([5, 7])
    operators.ensemble_train(*given, *state, [count], *more)
    assert count.tolist() == [6, 9]
    lone = torch.tensor([[0, 2], [0, 3]])
    images = zeros(4, 2, 1, 1)
    with pytest.raises(RuntimeError, match="batch_norm needs more than one value"):
        operators.ensemble_train(images, images, None, lone, stacked, *state, [count], *more)


def test_sizes_that_overflow_when_multiplied() -> None:
    for members in (2**40, 2**62, 2**63 - 1):
        for images in (zeros(2**20, 3), zeros(3, 2**20)):
            with pytest.raises(RuntimeError):
                operators.ensemble(images, [], members, False, RELU, None, None)


@settings(max_examples=25)
@given(chains())
def test_fake_kernels_and_members_alone(chain: Chain) -> None:
    many, alone = of_chain(chain)
    images = laid_out(chain.images(torch.float32), "channels_last" if len(chain.shape) == 4 else "contiguous")
    program = many._network.program()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        parameters = [parameter.detach().to(dtype) for parameter in many.parameters()]
        for own in (False, True):
            x = images.to(dtype).repeat(MEMBERS if own else 1, *[1] * (images.dim() - 1))
            (output,) = check_fake(operators.ensemble, x, parameters, MEMBERS, own, program, None, None)
            for k in range(len(alone)):
                one = [parameter[k] for parameter in parameters]
                (expected,) = operators.network(images.to(dtype), one, program, None, None)
                assert_same(output[k], expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_opcheck(layout: str, own: bool) -> None:
    parameters = [*STACKED[:2], STACKED[2].mT.contiguous().mT, STACKED[3].flip(0)]
    images = laid_out(IMAGES, layout)
    torch.library.opcheck(operators.ensemble.default, (images, parameters, 2, own, PROGRAM, None, None))
    given = (bytes_of(images), parameters, 2, own, PROGRAM, NORMALIZATION, None)
    torch.library.opcheck(operators.ensemble.default, given)
