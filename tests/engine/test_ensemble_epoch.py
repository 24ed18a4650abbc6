"""TrainStep.epoch of an ensemble: orders, callbacks, versions, and epochs that end early."""

from __future__ import annotations

import _thread
import copy
import threading

import pytest
import torch
from ensembles import MEMBERS, assert_same, unchanged
from forked import in_a_child
from test_ensemble_step import adam, data, pair
from test_epoch_interrupted import NEEDS_INTERRUPTS
from torch import Tensor, nn

from lenet_ext import FusedEnsemble, TrainStep, fuse_ensemble

EMPTY = torch.empty(0, dtype=torch.int64)


def made() -> TrainStep:
    many = pair()[0]
    return TrainStep(many, adam(many, None))


def orders(*lengths: int) -> list[Tensor]:
    return [torch.arange(length) % 8 for length in lengths]


def test_shapes_of_losses() -> None:
    step, (x, labels) = made(), data(8)
    assert step(x, labels).shape == (MEMBERS,)
    assert step.epoch(x, labels, 3).shape == (MEMBERS, 3)
    assert step.epoch(x, labels, 100).shape == (MEMBERS, 1)
    assert step.epoch(x, labels, 2, torch.stack(orders(5, 5, 5))).shape == (MEMBERS, 3)
    ragged = step.epoch(x, labels, 2, orders(0, 3, 20))
    assert [tuple(losses.shape) for losses in ragged] == [(0,), (2,), (10,)]
    assert not torch.cat(ragged).isnan().any()
    assert step.epoch(x, labels, 2, tuple(orders(4, 4, 4)))[0].shape == (2,)
    with unchanged(step):
        assert step.epoch(x, labels, 2, torch.empty(MEMBERS, 0, dtype=torch.int64)).shape == (MEMBERS, 0)
        assert_same(step.epoch(x, labels, 2, [EMPTY] * MEMBERS), [torch.empty(0)] * MEMBERS)
        assert step.epoch(x[:0], labels[:0], 2).shape == (MEMBERS, 0)
        for shape in ((0,), (MEMBERS, 0)):
            with pytest.raises(RuntimeError, match="the batch is empty"):
                step(x.new_empty(*shape, *x.shape[1:]), labels.new_empty(shape))


def test_versions_are_raised() -> None:
    """Autograd sees that parameters and running statistics were changed."""
    step, (x, labels) = made(), data(8)
    output = step.fused(x)
    before = [tensor._version for tensor in step.fused.state_dict(keep_vars=True).values()]
    step(x, labels)
    after = [tensor._version for tensor in step.fused.state_dict(keep_vars=True).values()]
    assert all(new > old for new, old in zip(after, before, strict=True))
    with pytest.raises(RuntimeError, match=r"modified.* inplace"):
        output.sum().backward()


@pytest.mark.parametrize("every", [1, 2, 100])
def test_callback(every: int) -> None:
    """Losses so far, with NaN where a member took no step; the bits are those without it."""
    (x, labels), told = data(8), list[tuple[int, Tensor]]()
    torch.manual_seed(0)
    losses = made().epoch(x, labels, 2, orders(4, 0, 9), lambda *so_far: told.append(so_far), every)
    torch.manual_seed(0)
    assert_same(losses, made().epoch(x, labels, 2, orders(4, 0, 9)))
    assert [done for done, _ in told] == sorted({*range(every, 6, every), 5})
    for done, so_far in told:
        assert so_far.shape == (MEMBERS, done)
        for row, whole in zip(so_far, losses, strict=True):
            assert_same(row[: len(whole)], whole[:done])
            assert row[len(whole) :].isnan().all()


@pytest.mark.parametrize("last", [2, 4])
def test_exception_of_the_callback(last: int) -> None:
    (x, labels), step = data(8), made()

    def callback(done: int, losses: Tensor) -> None:
        if done == last:
            raise ZeroDivisionError

    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError) as caught:
        step.epoch(x, labels, 2, orders(12, 4, 10), callback, 2)
    losses, twin = caught.value.losses, made()  # type: ignore[attr-defined]
    assert losses.shape == (MEMBERS, last)
    seeds = torch.zeros(MEMBERS, 6, dtype=torch.int64)
    torch.manual_seed(0)
    seeds = torch.randint(2**63 - 1, (6 * MEMBERS,)).view(6, MEMBERS).t()[:, :last].contiguous()
    taken = [order[: 2 * last] for order in orders(12, 4, 10)]
    for row, own in zip(losses, twin.epoch(x, labels, 2, taken, seeds=seeds), strict=True):
        assert_same(row[: len(own)], own)
    assert_same(dict(step.fused.state_dict()), dict(twin.fused.state_dict()))
    assert_same(step.state_dict()["state"], twin.state_dict()["state"])


@NEEDS_INTERRUPTS
@pytest.mark.parametrize("wait", [0.0, 0.3])
def test_interrupt(wait: float) -> None:
    """It comes between two steps of all members, and says which were taken."""
    torch.manual_seed(0)
    many = fuse_ensemble(nn.Linear(20, 5), x := torch.randn(64, 20), copies=2)
    labels, order = torch.randint(5, (64,)), torch.randint(64, (2, 4_000_000))
    step, twin = (TrainStep(one, lr=0.01, momentum=0.9) for one in (many, copy.deepcopy(many)))
    timer = threading.Timer(wait, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012
        timer.start()
        step.epoch(x, labels, 2, order)
    losses = getattr(caught.value, "losses", torch.empty(2, 0))
    assert losses.shape[1] < 2_000_000
    assert_same(twin.epoch(x, labels, 2, order[:, : 2 * losses.shape[1]]), losses)
    assert_same(dict(step.fused.state_dict()), dict(twin.fused.state_dict()))
    assert_same(step(x, labels), twin(x, labels))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("threads")
def test_forked_child() -> None:
    """Which has no pool of threads: it computes what the parent does."""
    x, labels = data(MEMBERS, 400)  # which torch copies on its pool
    x = x.transpose(0, 1).contiguous().transpose(0, 1)

    def results() -> list[bytes]:
        many = copy.deepcopy(networks)
        step = TrainStep(many, torch.optim.SGD(many.parameters(), lr=0.1, momentum=0.9))
        seeds = torch.arange(4 * MEMBERS).view(MEMBERS, 4)
        losses = [step(x, labels), step.epoch(x, labels, 100, seeds=seeds)]
        outputs = [many(x), many.eval()(x)]
        return [tensor.numpy().tobytes() for tensor in (*losses, *outputs)]

    networks: FusedEnsemble = pair()[0].requires_grad_(requires_grad=True)
    with torch.no_grad():
        torch.manual_seed(0)
        child = in_a_child(lambda: (torch.manual_seed(0), results())[1])
        torch.manual_seed(0)
        assert child == results()
