"""What is timed, on which engines, and that nothing wrong is. Never how fast anything is."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from processes import python
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential

from benchmarks import measure as measure_module
from benchmarks.engines import (
    COMPILED,
    EAGER,
    FREEZE,
    FUSE,
    FUSE_SGD,
    LAYERS,
    TRAIN_STEP,
    Engine,
    torch_run,
)
from benchmarks.measure import measure
from benchmarks.memory import training_memory
from benchmarks.models import ATARI, CIFAR, FEMNIST, LENET, LENET5, MNIST, lenet_layer_tasks
from benchmarks.peak import measured_peak
from benchmarks.reports import ENGINES, REPORTS
from benchmarks.tasks import BACKWARD, FORWARD, INFERENCE, TRAINING_STEP, Model, Task
from benchmarks.timing import Effort, time_in_turns

BRIEF = Effort(seconds=0, fewest=2)
# torch.compile takes too long to compile for a test of each engine.
INSTALLED = [engine for engine in ENGINES if not engine.missing() and not engine.compiles]
OURS = [engine for engine in ENGINES if engine.ours]
BY_DIRECTION = {
    FORWARD: {LAYERS.name},
    BACKWARD: {LAYERS.name},
    INFERENCE: {LAYERS.name, FUSE.name, FREEZE.name},
    TRAINING_STEP: {LAYERS.name, FUSE_SGD.name, TRAIN_STEP.name},
}


def small() -> Module:
    first = (Conv2d(2, 3, 3, padding=1), ReLU(), MaxPool2d(2), Flatten())
    return Sequential(*first, Linear(3 * 16, 16), ReLU(), Linear(16, 4))


SMALL = Model("small", (2, 8, 8), small, classes=4)
CONV2D = Model("conv", (3, 7, 6), partial(Conv2d, 3, 4, 3), first=False)
POOL = Model("pool", (3, 6, 6), partial(MaxPool2d, 2), first=False)
STEP = Task(model=SMALL, batch=3, direction=TRAINING_STEP)
FORWARD_CONV2D = Task(model=CONV2D, batch=2, direction=FORWARD)
BACKWARD_CONV2D = replace(FORWARD_CONV2D, direction=BACKWARD)


@pytest.mark.parametrize(
    "task",
    [
        FORWARD_CONV2D,
        BACKWARD_CONV2D,
        replace(BACKWARD_CONV2D, memory_format=torch.channels_last),
        replace(BACKWARD_CONV2D, model=replace(CONV2D, name="conv1", first=True)),
        Task(model=POOL, batch=2, direction=BACKWARD),
        *(Task(model=SMALL, batch=batch, direction=INFERENCE, threads=2) for batch in (1, 3)),
        *(replace(STEP, batch=batch, threads=2) for batch in (1, 3)),
    ],
    ids=str,
)
def test_a_task_is_timed_on_every_engine(task: Task, threads: None) -> None:
    torch.set_num_threads(1)
    one = measure(task, INSTALLED if task.model is SMALL else [LAYERS, EAGER], BRIEF)
    assert torch.get_num_threads() == 1
    assert torch.is_grad_enabled()
    assert not one.wrong
    assert {EAGER.name} | BY_DIRECTION[task.direction] <= one.timings.keys()
    for timing in one.timings.values():
        assert timing.runs == 2
        assert 0 < timing.lower_quartile <= timing.median <= timing.upper_quartile
    ours, native = (one.timings[engine.name].median for engine in (LAYERS, EAGER))
    assert one.speedup(LAYERS.name, [EAGER.name, "absent"]) == native / ours
    assert one.speedup(LAYERS.name, ["absent"]) is None
    assert one.speedup("absent", [EAGER.name]) is None


@pytest.mark.parametrize(
    "network", [ATARI, CIFAR, FEMNIST, LENET, LENET5, MNIST], ids=lambda network: network.name
)
def test_all_networks_can_be_fused(network: Model) -> None:
    one = measure(Task(model=network, batch=2, direction=INFERENCE), OURS, BRIEF)
    assert one.timings.keys() == BY_DIRECTION[INFERENCE]


class Spoilt(Module):
    def __init__(self, module: Module, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.spoil = module, spoil

    def forward(self, images: Tensor) -> Tensor:
        return self.spoil(self.module(images))


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient / 2


@pytest.mark.parametrize(
    ("task", "spoil", "what"),
    [
        (FORWARD_CONV2D, lambda out: out + 1e-3 * out.abs().max(), "output"),
        (FORWARD_CONV2D, lambda out: out * math.nan, "output"),
        (Task(model=POOL, batch=2, direction=FORWARD), lambda out: out[:1], "output"),
        (BACKWARD_CONV2D, HalfGradient.apply, "gradient 0"),
        (STEP, HalfGradient.apply, "update of parameter 0"),
    ],
    ids=["off", "NaN", "another shape", "a wrong gradient", "a wrong update"],
)
def test_wrong_results_are_not_timed(
    task: Task, spoil: Callable[[Tensor], Tensor], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_none(engines: list[object], *_: object) -> list[object]:
        assert not engines
        return []

    monkeypatch.setattr(measure_module, "time_in_turns", time_none)
    spoilt = Engine("spoilt", partial(torch_run, convert=lambda module, _: Spoilt(module, spoil)))
    one = measure(task, [spoilt], BRIEF)
    assert not one.timings
    assert one.wrong["spoilt"].startswith(f"spoilt ({task}): {what} differs from torch eager's: ")


def test_torch_compile_is_told_which_batches_to_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic: list[bool] = []
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: dynamic.append(options["dynamic"]) or model
    )
    for task in (replace(STEP, direction=INFERENCE), replace(STEP, batch=1), STEP):
        assert measure(task, [COMPILED], BRIEF).timings.keys() == {COMPILED.name}
    assert dynamic == [False, False, True]


def test_an_engine_that_is_not_installed_says_so() -> None:
    assert Engine("", torch_run, packages=("torch", "no_such")).missing() == "not installed: no_such"
    assert not Engine("", torch_run, packages=("torch",)).missing()


def test_slow_calls_take_part_in_fewer_rounds() -> None:
    order: list[str] = []

    def timed(name: str, seconds: float) -> Callable[[int, int], float]:
        def run(untimed: int, calls: int) -> float:
            order.append(name)
            return seconds

        return run

    slow, quick = time_in_turns([timed("slow", 0.06), timed("quick", 0.01)], Effort(0.2, fewest=2))
    assert (slow.runs, slow.calls_per_run, quick.runs) == (3, 1, 10)
    first, second, third = (place for place, name in enumerate(order[-13:]) if name == "slow")
    assert min(second - first, third - second) > 2  # spread over all rounds


def test_short_calls_are_repeated() -> None:
    (timing,) = time_in_turns([lambda untimed, calls: 2**-20], Effort(0, fewest=2, run_seconds=2**-13))
    assert timing.calls_per_run == 128
    assert timing.median == 2**-20


def test_operations_are_those_of_the_layers() -> None:
    """Counted by hand: 2 * 28 * 28 * 6 * 75, 2 * 10 * 10 * 16 * 150, and the three linear layers."""
    conv1, conv2, linears = 705_600, 480_000, 2 * (400 * 120 + 120 * 84 + 84 * 10)
    forward = conv1 + conv2 + linears
    assert Task(model=LENET, batch=3, direction=INFERENCE).operations == 3 * forward
    assert Task(model=LENET, batch=3, direction=TRAINING_STEP).operations == 3 * (3 * forward - conv1)
    layers = {(task.name[:5], task.direction): task.operations for task in lenet_layer_tasks("conv2d", [64])}
    assert layers["conv1", FORWARD] == 64 * conv1
    assert layers["conv1", BACKWARD] == 64 * 2 * conv1
    assert layers["conv2", BACKWARD] == 64 * 3 * conv2
    assert Task(model=POOL, batch=1, direction=FORWARD).operations == 0


def test_tasks_are_told_apart() -> None:
    for report in REPORTS:
        assert len({str(task) for task in report.tasks}) == len(report.tasks)


def test_the_peak_is_one_of_a_cpu() -> None:
    peak = measured_peak(1)
    if peak is None:
        pytest.skip("no C++ compiler")
    assert 1 < peak < 1000  # GFLOP/s of one core


def test_memory_of_a_step() -> None:
    memory = training_memory(256)
    if not memory:
        pytest.skip("this system does not tell")
    assert 0 < memory[TRAIN_STEP.name] < memory[EAGER.name]
    assert memory[EAGER.name] > 256 * 6 * 28 * 28 * 4 / 2**20  # the first activation alone


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this setting")
def test_freed_memory_is_kept() -> None:
    """In processes of their own: which share of 64 MiB leaves the resident pages as they are freed.

    Page faults would say less: an aligned block may not fit where one of its own size was freed, and then
    takes new pages although nothing was given back.
    """
    program = """
import resource, statistics
import torch
from benchmarks.timing import keep_freed_memory
keep_freed_memory()
def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def share_given_back():
    block = torch.ones(1 << 24)
    size, before = block.nbytes, resident_bytes()
    del block
    return (before - resident_bytes()) / size
print(statistics.median(share_given_back() for _ in range(5)))
"""
    assert float(python("-c", program).stdout) < 0.1
    without = program.replace("\nkeep_freed_memory()", "")
    assert float(python("-c", without).stdout) > 0.9
