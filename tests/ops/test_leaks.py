"""What calls leave behind in memory: nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from operators import OPERATORS, operators

import lenet_ext

CALLS = 400


class Mallinfo(ctypes.Structure):
    """mallinfo2 of glibc's malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
pytestmark = pytest.mark.skipif(mallinfo is None, reason="needs glibc 2.33, which counts what malloc gave")


def bytes_in_use() -> int:
    assert mallinfo is not None
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def check_keeps_nothing(call: Callable[[], object]) -> None:
    for _ in range(CALLS):  # what is kept for ever, or up to some number
        call()
    growths = []
    for _ in range(3):  # Python may grow its own tables in one of them
        before = bytes_in_use()
        for _ in range(CALLS):
            call()
        growths.append(bytes_in_use() - before)
    assert min(growths) < 8 * CALLS, growths


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    operator = getattr(operators, name)
    check_keeps_nothing(lambda: operator(*OPERATORS[name].example))


def test_refused_operator() -> None:
    images, *rest = OPERATORS["network"].example

    def call() -> None:
        with pytest.raises(RuntimeError):
            operators.network(images[0], *rest)

    check_keeps_nothing(call)


def test_step_and_frozen() -> None:
    images, targets = torch.randn(2, 1, 8, 8), torch.tensor([1, 0])
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    fused = lenet_ext.fuse(model, images)
    step, net = lenet_ext.TrainStep(fused, lr=0.1, momentum=0.9), fused.freeze()
    check_keeps_nothing(lambda: step(images, targets))
    check_keeps_nothing(lambda: net(images))
    check_keeps_nothing(lambda: net(images.numpy()))
