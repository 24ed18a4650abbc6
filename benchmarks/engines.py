"""What can do a task: lenet_ext in its several ways, and native torch; other files have the other peers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

import lenet_ext
from benchmarks.tasks import BACKWARD, FORWARD, INFERENCE, TRAINING_STEP, Task
from benchmarks.timing import Call

# Far enough for float32 to show the update, and then so small that the network stays what it is: after
# thousands of real steps on one batch its gradients would be denormal numbers, which are slow.
CHECKED_RATE = 0.1
TIMED_RATE = 1e-6
MOMENTUM = 0.9
CHECKED_STEPS = 2
UPDATE = "update"  # begins the name of what the checked steps did to a parameter


@dataclass(frozen=True)
class Run:
    """A call that is ready, and a function that tries it out before it is timed.

    check: returns the results, tensors or what numpy.asarray takes, by names that all engines share.
    """

    call: Call
    check: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Engine:
    """A way to do tasks. prepare: makes a task ready to run; None for what the engine cannot do.

    packages: of Python, its own and then what else it needs besides torch. Such an engine has threads of its
    own, and always gets a process of its own. compiles: for many seconds, with a C++ compiler.
    """

    name: str
    prepare: Callable[[Task], Run | None]
    ours: bool = False
    packages: Sequence[str] = ()
    compiles: bool = False

    def missing(self) -> str:
        """What keeps it from running here; empty where nothing does."""
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if absent:
            return f"not installed: {', '.join(absent)}"
        return "no C++ compiler" if self.compiles and not find_compiler() else ""

    def version(self) -> str:
        return importlib.metadata.version(self.packages[0])


def find_compiler() -> list[str]:
    """The command of a C++ compiler; empty where there is none."""
    command = shlex.split(os.environ.get("CXX") or "c++")
    return command if shutil.which(command[0]) else []


def result_run(name: str, call: Call) -> Run:
    """Of a call that returns its only result."""
    return Run(call, lambda: {name: call()})


def training_run(step: Call, parameters: Callable[[], Sequence[Any]], slow_down: Callable[[], Any]) -> Run:
    """Steps of `CHECKED_RATE`, which the check slows down to `TIMED_RATE`.

    step: returns the loss before the update. parameters: as they are now, in the order of the model's.
    """

    def check() -> dict[str, Any]:
        before = [values + 0 for values in parameters()]
        losses = {f"loss of step {i}": step() + 0 for i in range(CHECKED_STEPS)}  # copies
        changes = [new - old for new, old in zip(parameters(), before, strict=True)]
        slow_down()
        return {f"{UPDATE} of parameter {i}": change for i, change in enumerate(changes)} | losses

    return Run(step, check)


def torch_run(
    task: Task,
    *,
    convert: Callable[[Module, Task], Module] = lambda module, _: module,
    memory_format: torch.memory_format = torch.preserve_format,
    directions: Sequence[str] = (FORWARD, BACKWARD, INFERENCE, TRAINING_STEP),
) -> Run | None:
    """Of a module made of the native one, with autograd and torch.optim.SGD.

    memory_format: of the weights, and of the images where it is another one than the task's.
    """
    if task.direction not in directions:
        return None
    module = task.module()
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # its stub lacks it
    module, images = convert(module, task), task.images().to(memory_format=memory_format)
    if not task.with_autograd:
        return result_run("output", partial(module, images))
    run = _backward_run if task.direction == BACKWARD else _sgd_run
    return run(task, module, images)


def _backward_run(task: Task, module: Module, images: Tensor) -> Run:
    images.requires_grad_(not task.model.first)
    wanted = [*module.parameters(), *([images] if images.requires_grad else [])]
    output_gradient = task.random(*module(images).shape, seed=3)

    def forward_and_backward() -> Tensor:
        for tensor in wanted:
            tensor.grad = None  # what zero_grad() does: gradients are stored, not added to older ones
        output: Tensor = module(images)
        output.backward(output_gradient)
        return output

    def check() -> dict[str, Any]:
        output = forward_and_backward().detach()
        return {"output": output, **{f"gradient {i}": tensor.grad for i, tensor in enumerate(wanted)}}

    return Run(forward_and_backward, check)


def _sgd_run(task: Task, module: Module, images: Tensor) -> Run:
    labels = task.labels()
    optimizer = torch.optim.SGD(module.parameters(), lr=CHECKED_RATE, momentum=MOMENTUM)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _optimizer_run(step, module, optimizer)


def _optimizer_run(step: Call, module: Module, optimizer: torch.optim.Optimizer) -> Run:
    return training_run(
        step,
        lambda: [parameter.detach() for parameter in module.parameters()],
        lambda: optimizer.param_groups[0].update(lr=TIMED_RATE),
    )


def compiled_run(task: Task, **options: Any) -> Run | None:
    """Of torch.compile, which is told which batches to expect.

    Inference is compiled for each batch size alone. A training step takes twice as long to compile, and is
    compiled for one image and for any larger batch.
    """
    torch.compiler.reset()
    options = {"dynamic": task.direction == TRAINING_STEP and task.batch > 1} | options

    def convert(module: Module, _: Task) -> Module:
        compiled: Any = torch.compile(module, **options)
        return compiled

    return torch_run(task, convert=convert)


def train_step_run(task: Task) -> Run | None:
    """Of our step in one call."""
    if task.direction != TRAINING_STEP:
        return None
    fused = _fuse(task.module(), task)
    step = lenet_ext.TrainStep(fused, lr=CHECKED_RATE, momentum=MOMENTUM)
    return _optimizer_run(partial(step, task.images(), task.labels()), fused, step.optimizer)


def frozen_run(task: Task) -> Run | None:
    """Of our network for inference alone."""
    if task.direction != INFERENCE:
        return None
    return result_run("output", partial(_fuse(task.module(), task).freeze(), task.images()))


def _fuse(module: Module, task: Task) -> lenet_ext.FusedNet:
    return lenet_ext.fuse(module, task.images()[:1])


def _convert(module: Module, _: Task) -> Module:
    return lenet_ext.convert(module)


EAGER = Engine("torch eager", torch_run)
CHANNELS_LAST = Engine("torch eager channels_last", partial(torch_run, memory_format=torch.channels_last))
COMPILED = Engine("torch.compile", compiled_run, compiles=True)
LAYERS = Engine("lenet_ext layers", partial(torch_run, convert=_convert), ours=True)
FREEZE = Engine("lenet_ext freeze", frozen_run, ours=True)
FUSE = Engine("lenet_ext fuse", partial(torch_run, convert=_fuse, directions=(INFERENCE,)), ours=True)
FUSE_SGD = Engine(
    "lenet_ext fuse + SGD", partial(torch_run, convert=_fuse, directions=(TRAINING_STEP,)), ours=True
)
TRAIN_STEP = Engine("lenet_ext TrainStep", train_step_run, ours=True)
