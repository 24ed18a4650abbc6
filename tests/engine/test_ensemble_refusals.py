"""TrainStep of an ensemble: what is refused, and that nothing was changed then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ensembles import MEMBERS, unchanged
from test_ensemble_epoch import EMPTY, made, orders
from test_ensemble_step import data, network
from torch import nn

from lenet_ext import TrainStep

X, LABELS = data(8)
OWN, OWN_LABELS = data(MEMBERS, 8)
ZEROS = torch.zeros(3, 2, dtype=torch.int64)
TENSOR = "must be a torch.Tensor"
BAD_CALLS: dict[str, tuple[Callable[[TrainStep], Any], type[Exception], str]] = {
    "target": (lambda s: s(X, LABELS + 1), IndexError, r"target 4 at position \d+ is out of range \[0, 4\)"),
    "own target": (lambda s: s(OWN, OWN_LABELS + 1), IndexError, r"target 4 at position \[\d, \d\] is out"),
    "last target": (lambda s: s.epoch(X, torch.tensor([0] * 7 + [9]), 2), IndexError, "target 9 at"),
    "targets of a member": (lambda s: s(OWN, LABELS), RuntimeError, r"targets must be \(3, 8, ...\)"),
    "targets of members": (lambda s: s(X, OWN_LABELS), RuntimeError, "give each member its own images too"),
    "fewer targets": (lambda s: s(X, LABELS[:5]), RuntimeError, "targets"),
    "fewer own targets": (lambda s: s(OWN, OWN_LABELS[:, :5]), RuntimeError, r"got \(3, 5\)"),
    "one target": (lambda s: s(X, LABELS[0]), RuntimeError, "targets"),
    "no tensor": (lambda s: s(X, [1]), TypeError, f"targets {TENSOR}, got list"),
    "dtype": (lambda s: s(X.double(), LABELS), RuntimeError, "torch|Double"),
    "dimensions": (lambda s: s(X[0], LABELS), RuntimeError, "images must be"),
    "other members": (lambda s: s(OWN[:2], OWN_LABELS[:2]), RuntimeError, "images are for 2 members"),
    "batch size": (lambda s: s.epoch(X, LABELS, 0), ValueError, "batch_size and callback_steps"),
    "callback steps": (lambda s: s.epoch(X, LABELS, 2, callback_steps=0), ValueError, "callback_steps"),
    "too few orders": (lambda s: s.epoch(X, LABELS, 2, orders(4, 4)), RuntimeError, "be 3 orders"),
    "too many orders": (lambda s: s.epoch(X, LABELS, 2, ZEROS.new_zeros(4, 2)), RuntimeError, "got 4"),
    "an order": (lambda s: s.epoch(X, LABELS, 2, ZEROS[0]), TypeError, r"or 3 tensors, got \(2,\)"),
    "a number": (lambda s: s.epoch(X, LABELS, 2, 3), TypeError, "got int"),
    "lists": (lambda s: s.epoch(X, LABELS, 2, [[0], [1], [2]]), TypeError, f"order of member 0 {TENSOR}"),
    "int32": (lambda s: s.epoch(X, LABELS, 2, ZEROS.int()), RuntimeError, "member 0 must be int64"),
    "beyond": (
        lambda s: s.epoch(X, LABELS, 2, [*orders(4, 4), torch.tensor([0, 1, 2, 8])]), IndexError,
        r"order of member 2: 8 at position 3 is out of range \[0, 8\)",
    ),
    "negative": (
        lambda s: s.epoch(OWN, OWN_LABELS, 2, [EMPTY, torch.tensor([0, -1]), EMPTY]), IndexError,
        r"order of member 1: -1 at position 1 is out of range \[0, 8\)",
    ),
    "no images": (lambda s: s.epoch(X[:0], LABELS[:0], 2, orders(1, 0, 0)), IndexError, r"range \[0, 0\)"),
    "seeds": (lambda s: s.epoch(X, LABELS, 2, seeds=ZEROS), RuntimeError, r"int64 \(3, 4\)"),
    "no seeds": (lambda s: s.epoch(X, LABELS, 2, seeds=[1]), TypeError, f"seeds {TENSOR}, got list"),
    "autocast": (lambda s: torch.autocast("cpu")(s)(X, LABELS), RuntimeError, "autocast is on"),
    "a single value": (
        lambda s: s.epoch(*(t[:, :1].contiguous() for t in (OWN[..., :3, :3], OWN_LABELS)), 1),
        RuntimeError, "batch_norm needs more than one value|may compute something else",
    ),
}  # fmt: skip


@pytest.mark.parametrize("taken", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_calls_that_are_refused(name: str, taken: int) -> None:
    call, error, message = BAD_CALLS[name]
    step = made()
    for _ in range(taken):
        step(X, LABELS)
    with unchanged(step), pytest.raises(error, match=message):
        call(step)
    assert not step(X, LABELS).isnan().any()


def test_hooks_and_other_modules() -> None:
    step, message = made(), r"5.weight must be \(3, ...\), one for each member, got \(4, 36\)"
    handle = step.fused.get_submodule("2").register_forward_hook(lambda *_: None)
    with unchanged(step), pytest.raises(RuntimeError, match='layer "2" has hooks'):
        step(X, LABELS)
    handle.remove()
    step(X, LABELS)
    step.fused.get_submodule("5").weight = nn.Parameter(torch.zeros(4, 36))
    with pytest.raises(RuntimeError, match=message):
        step(X, LABELS)
    step = made()
    setattr(step.fused, "5", network()[5])
    with pytest.raises(RuntimeError, match=message):
        step(X, LABELS)
