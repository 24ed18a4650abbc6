"""The engines that run a `Network`: ours, torch eager in two memory formats, and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lenet_ext
from benchmarks.engines import CHANNELS_LAST, CHECKED_STEPS, COMPILED, EAGER, TIMED_RATE, UPDATE, Engine, Run
from benchmarks.networks import Network, first_output
from benchmarks.tasks import Task
from benchmarks.timing import Call

CHECKED_IMAGES = 8  # few, since torch's float64 is slow

Make = Callable[[torch.dtype], nn.Module]  # with the task's parameters, new ones at each call
Trained = Callable[[Network, nn.Module, Tensor], tuple[Call, torch.optim.Optimizer]]


def network_of(task: Task) -> Network:
    assert isinstance(task.model, Network)
    return task.model


def network_run(task: Task, make: Make, trained: Trained) -> Run:
    """trained: makes a step that returns the loss, and its optimizer.

    Inference is in eval mode, a training step in training mode.
    """
    network, module, images = network_of(task), make(torch.float32), task.images()
    module.train(task.with_autograd)
    if not task.with_autograd:
        return Run(partial(module, images), lambda: _named(module(images)))
    call, optimizer = trained(network, module, images)

    def check() -> dict[str, Tensor]:
        results = _gradients(network, make, images) | _steps(network, make, images, trained)
        for group in optimizer.param_groups:
            group["lr"] = TIMED_RATE
        return results

    return Run(call, check)


def _named(outputs: Any) -> dict[str, Tensor]:
    return {f"output {number}": tensor.detach() for number, tensor in enumerate(_tensors(outputs))}


def _tensors(outputs: Any) -> list[Tensor]:
    return [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]


def _gradients(network: Network, make: Make, images: Tensor) -> dict[str, Tensor]:
    """Outputs, and what gradients would do to the parameters, in float32."""
    module = _checkable(network, make, torch.float32)
    outputs = module(images)
    _loss(outputs).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return {**_named(outputs), f"{UPDATE} by gradients": _flat(gradients)}


def _steps(network: Network, make: Make, images: Tensor, trained: Trained) -> dict[str, Tensor]:
    """Losses, and what the steps did to parameters and running statistics, in float64.

    In float32 rounding alone gives the sign of a gradient that is zero, such as that of a bias before a batch
    norm, and so all of the step that Adam makes of it.
    """
    module = _checkable(network, make, torch.float64)
    before = _flat(module.state_dict().values())
    step, _ = trained(network, module, images[:CHECKED_IMAGES].double())
    losses = [step().detach() + 0 for _ in range(CHECKED_STEPS)]  # copies
    return {"losses": torch.stack(losses), "change": _flat(module.state_dict().values()) - before}


def _checkable(network: Network, make: Make, dtype: torch.dtype) -> nn.Module:
    """In eval mode where training mode is random: ours drops other elements than torch."""
    return make(dtype).train(not network.is_random)


def _flat(tensors: Any) -> Tensor:
    """A copy of all values, in float64."""
    return torch.cat([tensor.detach().double().contiguous().flatten() for tensor in tensors])


def _loss(outputs: Any) -> Tensor:
    """Some number that needs all outputs, for networks whose loss is none of torch's modules."""
    return torch.stack([tensor.square().mean() for tensor in _tensors(outputs)]).sum()


def training_loop(network: Network, module: nn.Module, images: Tensor) -> tuple[Call, torch.optim.Optimizer]:
    """A step as users write it."""
    optimizer, loss_module = network.make_optimizer(module), network.loss_module()
    targets = None if loss_module is None else network.targets(images)

    def step() -> Tensor:
        optimizer.zero_grad()
        outputs = module(images)
        loss = _loss(outputs) if loss_module is None else loss_module(first_output(outputs), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, optimizer


def _train_step(network: Network, module: nn.Module, images: Tensor) -> tuple[Call, torch.optim.Optimizer]:
    """One call where the loss is one of torch's modules, a loop around the fused network otherwise."""
    loss = network.loss_module()
    if loss is None:
        return training_loop(network, module, images)
    assert isinstance(module, lenet_ext.FusedNet)
    step = lenet_ext.TrainStep(module, network.make_optimizer(module), loss)
    return partial(step, images, network.targets(images)), step.optimizer


@lru_cache(maxsize=1)
def fused(network: Network) -> lenet_ext.FusedNet:
    """Of parameters that nobody changes, for copies; torch.export takes a second."""
    example = network.example()
    return lenet_ext.fuse(Task(model=network, batch=len(example), direction="").module(), example)


def refusal(network: Network) -> str:
    """Why `fuse` does not take it, in training or in eval mode; empty where it does."""
    if len(network.shapes) > 1:
        return f"it has {len(network.shapes)} inputs"
    try:
        module = copy.deepcopy(fused(network))
        for training in (False, True):
            module.train(training)(network.example())
    except (RuntimeError, TypeError) as error:
        return " ".join(str(error).split())
    return ""


def fused_run(task: Task) -> Run:
    network = network_of(task)
    return network_run(task, lambda dtype: copy.deepcopy(fused(network)).to(dtype), _train_step)


def eager_run(task: Task) -> Run:
    return network_run(task, lambda dtype: task.module().to(dtype), training_loop)


def channels_last_run(task: Task) -> Run | None:
    """None for what has no channels, or views what is in another order."""
    if len(task.model.image) != 3:
        return None
    task = replace(task, memory_format=torch.channels_last)

    def make(dtype: torch.dtype) -> nn.Module:
        # The stub of `to` lacks the argument.
        return task.module().to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    try:
        make(torch.float32)(task.images())
    except RuntimeError:
        return None
    return network_run(task, make, training_loop)


def compiled_run(task: Task) -> Run:
    """torch.compile for this batch size."""
    torch.compiler.reset()

    def make(dtype: torch.dtype) -> nn.Module:
        compiled: Any = torch.compile(task.module().to(dtype), dynamic=False)
        return compiled

    return network_run(task, make, training_loop)


OURS = Engine("lenet_ext", fused_run, ours=True)
NETWORK_EAGER = Engine(EAGER.name, eager_run)
NETWORK_CHANNELS_LAST = Engine(CHANNELS_LAST.name, channels_last_run)
NETWORK_COMPILED = Engine(COMPILED.name, compiled_run, compiles=True)
