"""A step of one network by several processes, each with its share of the batch; what cannot be divided so.

The gradient of a batch's mean loss is a sum over its images. Each process computes that of its own images,
weighted by their share of the batch, and the sum over the processes is the gradient of the whole batch,
however the images are divided, also where a process has none. (torch's DistributedDataParallel takes the mean
over the processes instead, which is that of the batch only where all have the same number of images.) Each
process then makes the same step of the optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lenet_ext.training.errors import InputError
from lenet_ext.training.learner import Learner
from lenet_ext.training.processes import Processes


def data_parallel_step(
    learner: Learner,
    processes: Processes,
    share: Callable[[], tuple[Tensor, Tensor]],
    batch_size: int,
    learning_rate: float,
) -> Tensor:
    """One step on a batch of `batch_size` images, as `Learner.step`; all processes call this together.

    share: gives the uint8 images and labels of this process, maybe none. Returns the mean loss of the whole
    batch before the step, the same in every process. Where anything fails in one process, `share` included,
    all end before the step.
    """
    parameters = [one for one in learner.model.parameters() if one.requires_grad]
    learner.set_learning_rate(learning_rate)
    learner.optimizer.zero_grad()
    loss = parameters[0].new_zeros(())
    with processes.deferred():
        images, labels = share()
        if len(images) > 0:  # not every network of a user's own takes an empty batch
            part = learner.loss(learner.logits(images), labels) * (len(images) / batch_size)
            part.backward()
            loss = part.detach()
    # A parameter that took no part in the loss has no gradient, as opposed to one of zeros: the optimizer
    # passes it over, weight decay and all. It took part if it did in any process.
    used = torch.tensor([one.grad is not None for one in parameters]).to(loss)
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    sums = processes.sums([loss.view(1), used, *(one.flatten() for one in gradients)])
    for parameter, took_part, gradient in zip(parameters, sums[1].tolist(), sums[2:], strict=True):
        parameter.grad = gradient.view_as(parameter) if took_part else None
    learner.optimizer.step()
    return sums[0].squeeze(0)


def check_divisible(model: nn.Module, network: Mapping[str, int], title: str) -> None:
    """Raise `InputError` where `model` learns of a whole batch what its images do not say one by one.

    That is a batch norm in training mode, and any other buffer that changes with the images: each process
    would have that of its own share. network: the arguments it was made with; title: how the user calls it.
    """
    advice = "train it in one process, or use GroupNorm in its place"
    model = copy.deepcopy(model).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            kind = type(module).__name__
            raise InputError(
                f"--model {title}: {name} is a {kind}, whose statistics in training are those of a whole "
                f"batch, of which a process sees a share: {advice}"
            )
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    shape = (2, network["in_channels"], network["image_size"], network["image_size"])
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _BatchNormsRefused(title, advice):
        torch.manual_seed(0)
        model(torch.randn(shape))
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise InputError(
                f"--model {title}: the buffer {name} changes in training, and a process sees only its share "
                "of a batch: train it in one process"
            )


class _BatchNormsRefused(TorchFunctionMode):
    """Within this, a function of batch norm that would take the statistics of a batch is an `InputError`."""

    def __init__(self, title: str, advice: str) -> None:
        super().__init__()
        self.title, self.advice = title, advice

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # `training` is the sixth argument of both, which a mode meets one or the other way.
        functions = (torch.batch_norm, nn.functional.batch_norm)
        if func in functions and (kwargs or {}).get("training", args[5:6] == (True,)):
            raise InputError(
                f"--model {self.title}: calls batch_norm with the statistics of a whole batch, of which a "
                f"process sees a share: {self.advice}"
            )
        return func(*args, **(kwargs or {}))
