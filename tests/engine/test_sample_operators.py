"""The raw operators about each image of a batch apart, called with what they cannot take."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import on_device
import pytest
import torch
from operators import IMAGES, LABELS, NETWORK, OPERATORS, PARAMETERS, TRAINING, operators, zeros
from test_network_operators import NORMALIZATION, spoilt_programs, spoilt_tensors
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lenet_ext.engine.layers import BatchNorm, Flatten, Linear
from lenet_ext.engine.network import Network

NAMES = ("network_sample_gradients", "network_clipped_sums", "network_noisy_update")
CALLS = {name: OPERATORS[name].example for name in NAMES}
pytestmark = pytest.mark.skipif(on_device.cuda_kernels, reason="they run on the CPU alone")


def spoilt(name: str, index: int, value: Any) -> list[Any]:
    """Values that the call cannot take."""
    argument = getattr(operators, name).default._schema.arguments[index].name
    if argument == "parameters":
        others = [[*value[:i], bad, *value[i + 1 :]] for i in range(4) for bad in spoilt_tensors(value[i])]
        # An update knows nothing of the network: of the parameters their number of elements must be right.
        swapped = [] if name == "network_noisy_update" else [value[::-1]]
        return [[], value[:3], [*value, zeros(4)], *swapped, *others]
    if argument == "places":
        return [[], [0], [0, 1, 2], [0, 1, 2, 3, 4], [1, 0, 2, 3], [0, 2, 3, 4], [-2, 0, 1, 2], [0, 0, 1, 2],
                [0, 1, 2, 2**62], "text"]  # fmt: skip
    if argument == "wanted":
        return [[], [3, 0], [0, 4], [-1, 0], [0, 0], [0, 3, 2**62], "text"]
    if argument == "order":
        return [bad for bad in spoilt_tensors(value) if bad.dtype != torch.int64 or bad.dim() != 1]
    if argument == "state":
        return [[], value * 2, *([bad] for bad in spoilt_tensors(value[0]) if bad.shape != (0, 3))]
    if argument == "optimizer":
        return ["", "sgd", "Adam", "LBFGS"]
    if argument in ("max_norm", "divisor"):
        return [0.0, -1.0, float("nan"), "text", *([float("inf")] if argument == "divisor" else [])]
    if isinstance(value, Tensor):
        return [*spoilt_tensors(value), "text"]
    if isinstance(value, str):
        # The last parameter is without a gradient in one of them, whose place may be another's then.
        return spoilt_programs(value)
    return [NORMALIZATION] if argument == "normalization" else []


@pytest.mark.parametrize("name", CALLS)
def test_sound_arguments(name: str) -> None:
    result = getattr(operators, name)(*deepcopy(CALLS[name]))
    for tensor in tree_leaves(result):
        assert tensor is None or tensor.isfinite().all()


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in CALLS for i in range(len(CALLS[name]))])
def test_one_argument_spoilt(name: str, index: int) -> None:
    arguments, accepted = CALLS[name], []
    for bad in spoilt(name, index, arguments[index]):
        try:
            getattr(operators, name)(*arguments[:index], bad, *arguments[index + 1 :])
            accepted.append(str(bad))
        except RuntimeError:
            continue
    assert accepted == []
    assert not any(tensor.any() for tensor in PARAMETERS)


@pytest.mark.parametrize(
    ("name", "index", "bad"),
    [
        *((name, 1, [0, 0, -1, 0]) for name in NAMES[:2]),
        ("network_sample_gradients", 1, [4, 0, 0, 0]),
        *(("network_clipped_sums", 2, order) for order in ([4], [-1], [0, 2**62])),
    ],
    ids=str,
)
def test_indices_out_of_range(name: str, index: int, bad: list[int]) -> None:
    arguments = list(CALLS[name])
    arguments[index] = torch.tensor(bad)
    if index == 1 and name == "network_clipped_sums":
        arguments[2] = None
    with pytest.raises(IndexError, match=r"(target|order) -?\d+ at position \d is out of range \[0, 4\)"):
        getattr(operators, name)(*arguments)


def test_targets_out_of_the_batch_are_not_looked_at() -> None:
    operators.network_clipped_sums(IMAGES, torch.tensor([0, -9, 1, 9]), *CALLS["network_clipped_sums"][2:])


def test_batch_statistics_and_several_outputs() -> None:
    norm = Network.chain(
        "Net", (BatchNorm(True, False, True, 0.1, 0.1), (0, 1)), (Flatten(), ()), (Linear(), (2,))
    )
    parameters = [zeros(2), zeros(2), zeros(4, 112)]
    arguments = (IMAGES, LABELS, parameters, [-1, -1, 0], None)
    with pytest.raises(RuntimeError, match="Net: batch_norm in training mode mixes the images of a batch"):
        operators.network_sample_gradients(*arguments, norm.program("loss cross_entropy"), None)
    several = TRAINING.replace("\nreturn 5", "\nreturn 5 5")
    with pytest.raises(RuntimeError, match="FusedNet: the network has several outputs, a loss is of one"):
        operators.network_sample_gradients(IMAGES, LABELS, PARAMETERS, [0, 1, 2, 3], None, several, None)
    with pytest.raises(RuntimeError, match="FusedNet: program names no loss"):
        operators.network_sample_gradients(
            IMAGES, LABELS, PARAMETERS, [0, 1, 2, 3], None, NETWORK.program(), None
        )
