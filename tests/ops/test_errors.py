"""Bad calls of the public functions: torch's exception types, in the project's words."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import lenet_ext.functional as F
from lenet_ext.check import NATIVE

IMAGE, WEIGHT, BIAS = torch.zeros(1, 4, 6, 6), torch.zeros(2, 4, 3, 3), torch.zeros(2)
CONV2D = {
    "input is a list": ([1.0], WEIGHT),
    "weight is None": (IMAGE, None),
    "bias is a number": (IMAGE, WEIGHT, 1.0),
    "2-D input": (torch.zeros(6, 6), WEIGHT),
    "5-D input": (torch.zeros(1, 1, 4, 6, 6), WEIGHT),
    "3-D weight": (IMAGE, torch.zeros(4, 3, 3)),
    "3-D weight, same": (IMAGE, torch.zeros(4, 3, 3), None, 1, "same"),
    "channels differ": (IMAGE, torch.zeros(2, 3, 3, 3)),
    "groups do not divide": (IMAGE, WEIGHT, None, 1, 0, 1, 3),
    "no groups": (IMAGE, WEIGHT, None, 1, 0, 1, 0),
    "groups are a float": (IMAGE, WEIGHT, None, 1, 0, 1, 1.0),
    "bias too long": (IMAGE, WEIGHT, torch.zeros(3)),
    "bias 2-D": (IMAGE, WEIGHT, torch.zeros(2, 1)),
    "stride 0": (IMAGE, WEIGHT, None, 0),
    "stride of three": (IMAGE, WEIGHT, None, (1, 1, 1)),
    "stride a float": (IMAGE, WEIGHT, None, 1.5),
    "stride a pair of floats": (IMAGE, WEIGHT, None, (1.0, 1.0)),
    "stride a string": (IMAGE, WEIGHT, None, "1"),
    "negative padding": (IMAGE, WEIGHT, None, 1, -1),
    "unknown padding": (IMAGE, WEIGHT, None, 1, "full"),
    "same with a stride": (IMAGE, WEIGHT, None, 2, "same"),
    "dilation 0": (IMAGE, WEIGHT, None, 1, 0, 0),
    "kernel larger than input": (IMAGE, torch.zeros(2, 4, 7, 7)),
    "dtypes differ": (IMAGE, WEIGHT.double()),
    "bias of another dtype": (IMAGE, WEIGHT, BIAS.double()),
    "boolean": (IMAGE.bool(), WEIGHT.bool()),
}
MAX_POOL2D = {
    "input is a list": ([1.0], 2),
    "input is None": (None, 2),
    "2-D input": (torch.zeros(6, 6), 2),
    "5-D input": (torch.zeros(1, 1, 4, 6, 6), 2),
    "kernel 0": (IMAGE, 0),
    "kernel of three": (IMAGE, (2, 2, 2)),
    "no kernel": (IMAGE, ()),
    "kernel a float": (IMAGE, 2.0),
    "kernel a pair of floats": (IMAGE, (2.0, 2.0)),
    "kernel None": (IMAGE, None),
    "stride 0": (IMAGE, 2, 0),
    "stride a string": (IMAGE, 2, "2"),
    "padding negative": (IMAGE, 2, 2, -1),
    "padding over half the kernel": (IMAGE, 2, 2, 2),
    "dilation 0": (IMAGE, 2, 2, 0, 0),
    "output empty": (IMAGE, 7),
    "no channels": (torch.zeros(1, 0, 4, 4), 2),
    "no pixels": (torch.zeros(1, 1, 0, 4), 2),
    "boolean": (IMAGE.bool(), 2),
}
LINEAR = {
    "input is a list": ([1.0], torch.zeros(2, 3)),
    "weight is None": (torch.zeros(2, 3), None),
    "bias is a number": (torch.zeros(2, 3), torch.zeros(4, 3), 1.0),
    "features differ": (torch.zeros(2, 3), torch.zeros(4, 2)),
    "features differ from a vector's": (torch.zeros(2, 3), torch.zeros(2)),
    "0-D input": (torch.tensor(1.0), torch.zeros(4, 1)),
    "3-D weight": (torch.zeros(2, 3), torch.zeros(1, 4, 3)),
    "bias too long": (torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(5)),
    "dtypes differ": (torch.zeros(2, 3), torch.zeros(4, 3).double()),
}
POOLS = {
    "pool 0": {"pool_size": 0},
    "pool of three": {"pool_size": (2, 2, 2)},
    "pool a float": {"pool_size": 2.0},
    "pool None": {"pool_size": None},
    "pool stride 0": {"pool_stride": 0},
    "pool stride a string": {"pool_stride": "2"},
    "pool larger than its input": {"pool_size": 5},
}
BAD_CALLS = [
    *[pytest.param("conv2d", call, id=f"conv2d: {name}") for name, call in CONV2D.items()],
    *[pytest.param("max_pool2d", call, id=f"max_pool2d: {name}") for name, call in MAX_POOL2D.items()],
    *[pytest.param("linear", call, id=f"linear: {name}") for name, call in LINEAR.items()],
    *[
        pytest.param(block, call, id=f"{block}: {name}")
        for block, calls in (("conv2d_relu_max_pool2d", CONV2D), ("linear_relu", LINEAR))
        for name, call in calls.items()
    ],
]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("operator", "arguments"), BAD_CALLS)
def test_errors_are_those_of_torch(operator: str, arguments: tuple, grad: bool) -> None:
    """TypeError where torch raises TypeError, RuntimeError otherwise, with a text that names the operator."""
    if grad:
        arguments = tuple(
            a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
            for a in arguments
        )
    with pytest.raises((TypeError, RuntimeError)) as theirs:
        getattr(NATIVE, operator)(*arguments)
    with pytest.raises(TypeError if theirs.type is TypeError else RuntimeError, match=f"{operator}: "):
        getattr(F, operator)(*arguments)


@pytest.mark.parametrize("name", POOLS)
def test_errors_of_the_pool_in_a_block(name: str) -> None:
    with pytest.raises((TypeError, RuntimeError)) as theirs:
        NATIVE.conv2d_relu_max_pool2d(IMAGE, WEIGHT, **POOLS[name])
    kind = TypeError if theirs.type is TypeError else RuntimeError
    with pytest.raises(kind, match="conv2d_relu_max_pool2d: "):
        F.conv2d_relu_max_pool2d(IMAGE, WEIGHT, **POOLS[name])


@pytest.mark.parametrize("transformed", [False, True])
def test_errors_of_a_block_name_it_in_every_mode(transformed: bool) -> None:
    def call(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d_relu_max_pool2d(image, torch.zeros(2, 3, 3, 3))

    with pytest.raises(RuntimeError, match="conv2d_relu_max_pool2d: weight"):
        torch.vmap(call)(IMAGE.unsqueeze(0)) if transformed else call(IMAGE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64])
@pytest.mark.parametrize(
    ("operator", "shapes"),
    [
        ("conv2d", [(1, 2, 4, 4), (1, 2, 3, 3)]),
        ("linear", [(2, 3), (4, 3)]),
        ("relu", [(3,)]),
        ("conv2d_relu_max_pool2d", [(1, 2, 4, 4), (1, 2, 3, 3)]),
        ("linear_relu", [(2, 3), (4, 3)]),
        ("max_pool2d", [(1, 2, 4, 4)]),
    ],
)
def test_other_dtypes_are_refused_by_name(operator: str, shapes: list, dtype: torch.dtype) -> None:
    tensors = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    with pytest.raises(RuntimeError, match=rf"{operator}: .*float32, float64, bfloat16 or float16"):
        getattr(F, operator)(*tensors, *([2] if operator == "max_pool2d" else []))


# 256 TiB: more than a process can address, however the system commits memory.
TOO_LARGE: dict[str, Callable[[], torch.Tensor]] = {
    "allocate": lambda: F.conv2d(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), padding=2**22),
    "copy": lambda: F.relu(torch.zeros(1).expand(2**46)),
}


@pytest.mark.parametrize("action", TOO_LARGE)
def test_a_failed_allocation_tells_torchs_reason(action: str) -> None:
    reason = "can't allocate memory: you tried to allocate 28"
    with pytest.raises(RuntimeError, match=f"torch could not {action} a tensor: .*{reason}") as caught:
        TOO_LARGE[action]()
    # Neither a path of the build nor the line of the call, here or in torch's headers.
    assert not re.search(r"/|\.h\b|, line", str(caught.value))
