"""An epoch that ends early: what was done is kept, and its losses are on the exception."""

from __future__ import annotations

import _thread
import signal
import threading

import pytest
import torch
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep
from lenet_ext.engine.pace import SECONDS, Pace

COUNT, BATCH = 64, 2
NEEDS_INTERRUPTS = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is not signal.default_int_handler,
    reason="an interrupt is no exception here",
)


def make() -> TrainStep:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    return TrainStep(lenet_ext.fuse(model, torch.zeros(1, 20)), lr=0.01, momentum=0.9)


def data(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(COUNT, 20), torch.randint(5, (COUNT,)), torch.randint(COUNT, (steps * BATCH,))


def assert_as_far_as(step: TrainStep, losses: Tensor, order: Tensor) -> None:
    """The network, its momenta and the losses are those of so many steps, and another step goes on."""
    images, targets, _ = data(1)
    twin = make()
    assert torch.equal(twin.epoch(images, targets, BATCH, order[: len(losses) * BATCH]), losses)
    for _ in range(2):
        mine, its = (dict(one.optimizer.state_dict()["state"]) for one in (step, twin))
        torch.testing.assert_close(mine, its, rtol=0, atol=0)
        assert all(map(torch.equal, step.fused.parameters(), twin.fused.parameters()))
        assert torch.equal(step(images, targets), twin(images, targets))


@NEEDS_INTERRUPTS
@pytest.mark.parametrize("wait", [0.0, 0.02, 0.5])
def test_interrupt(wait: float) -> None:
    images, targets, order = data(steps=4_000_000)  # which would take half a minute
    step = make()
    timer = threading.Timer(wait, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012
        timer.start()
        step.epoch(images, targets, BATCH, order)
    assert_as_far_as(step, getattr(caught.value, "losses", torch.empty(0)), order)


@pytest.mark.parametrize("last", [3, 6])
def test_exception_of_the_callback(last: int) -> None:
    images, targets, order = data(steps=20)

    def callback(done: int, losses: Tensor) -> None:
        if done == last:
            raise ZeroDivisionError

    step = make()
    with pytest.raises(ZeroDivisionError) as caught:
        step.epoch(images, targets, BATCH, order, callback, callback_steps=3)
    losses = caught.value.losses  # type: ignore[attr-defined]
    assert len(losses) == last
    assert_as_far_as(step, losses, order)


@NEEDS_INTERRUPTS
def test_interrupt_of_a_single_step() -> None:
    """It comes while the operator runs, and is raised behind it: the step is taken, and known to autograd."""
    images, targets = torch.randn(300_000, 20), torch.randint(5, (300_000,))
    step = make()
    parameter = next(step.fused.parameters())
    version, before = parameter._version, parameter.detach().clone()
    timer = threading.Timer(0.01, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        step(images, targets)
        timer.join()  # where the step was faster
        torch.zeros(1)
    assert (parameter._version > version) == (not torch.equal(parameter, before))


def test_pace() -> None:
    pace = Pace()
    assert pace.steps(7) == 1
    with pace.measured(1):
        pass
    assert pace.steps(1) > 100
    pace._image_seconds = SECONDS / 100
    assert (pace.steps(1), pace.steps(10), pace.steps(1000)) == (100, 10, 1)
