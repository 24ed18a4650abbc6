"""PrivateStep: what TrainStep is where the gradient of each image is clipped, and noise is added (DP-SGD)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from lenet_ext.engine.fused import FusedNet
from lenet_ext.engine.noise import secure_normal
from lenet_ext.engine.operators import draw_seeds
from lenet_ext.engine.sample_operators import clipped_sums, firsts, noisy_update, places_of
from lenet_ext.engine.train_step import TrainStep
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["PrivateStep"]


class PrivateStep(TrainStep):
    """TrainStep(fused, optimizer, loss, max_sample_grad_norm=..., noise_multiplier=...): see there.

    Abadi et al., "Deep learning with differential privacy" (2016), with the conventions of Opacus'
    DPOptimizer: of the gradient g of each image, over all parameters that are trained,

        sum over the images of  g * min(1, max_sample_grad_norm / (norm(g) + 1e-6))
            + noise_multiplier * max_sample_grad_norm * normal noise

    is divided by expected_batch_size where the reduction of the loss is "mean", and is the gradient that the
    optimizer gets.
    """

    def __init__(
        self,
        fused: FusedNet,
        optimizer: torch.optim.Optimizer | None = None,
        loss: str | torch.nn.Module | Callable[..., Tensor] = "cross_entropy",
        *,
        max_sample_grad_norm: float | None = None,
        noise_multiplier: float | None = None,
        expected_batch_size: float | None = None,
        generator: torch.Generator | None = None,
        secure_mode: bool = False,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        if max_sample_grad_norm is None:
            given = {
                "noise_multiplier": noise_multiplier,
                "expected_batch_size": expected_batch_size,
                "generator": generator,
                "secure_mode": secure_mode or None,
            }
            name = next((name for name, value in given.items() if value is not None), "secure_mode")
            _refuse(f"{name} is for private training, which max_sample_grad_norm asks for")
        if noise_multiplier is None:
            _refuse("max_sample_grad_norm needs a noise_multiplier; 0 is for clipping without noise")
        if max_grad_norm is not None:
            _refuse("max_grad_norm and max_sample_grad_norm exclude each other: the noise would be clipped")
        if generator is not None and not isinstance(generator, torch.Generator):
            _refuse(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"TrainStep: generator must be on the CPU, got one on {generator.device}")
        if not isinstance(secure_mode, bool):
            _refuse(f"secure_mode must be a bool, got {type(secure_mode).__name__}")
        if secure_mode and generator is not None:
            _refuse("secure_mode draws from the operating system, and takes no generator")
        self._max_norm = _number("max_sample_grad_norm", max_sample_grad_norm, least=None)
        self._noise_multiplier = _number("noise_multiplier", noise_multiplier, least=0)
        self._expected = None
        if expected_batch_size is not None:
            self._expected = _number("expected_batch_size", expected_batch_size, least=None)
        self._generator, self._secure = generator, secure_mode
        super().__init__(fused, optimizer, loss, **options)
        self._divisor()
        self._trained: list[Tensor] | None = None  # in the last step, and then:
        self._places: list[int] = []
        self._wanted: list[int] = []

    @property
    def max_sample_grad_norm(self) -> float:
        """The norm that the gradient of each image is clipped to."""
        return self._max_norm

    @property
    def noise_multiplier(self) -> float:
        """The standard deviation of the noise, in units of max_sample_grad_norm."""
        return self._noise_multiplier

    @property
    def expected_batch_size(self) -> float | None:
        """What the sum is divided by where the loss is a mean."""
        return self._expected

    def _one(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._take(images, targets, None)

    def _train(
        self, images: Tensor, targets: Tensor, order: Tensor, batch_size: int, losses: list[Tensor]
    ) -> None:
        if order.dim() != 1:  # which the operator refuses
            losses.append(self._take(images, targets, order))
            return
        taken: list[Tensor] = []
        try:
            for part in order.split(batch_size) if len(order) > 0 else ():
                taken.append(self._take(images, targets, part))
        finally:
            if taken or len(order) == 0:
                losses.append(torch.stack(taken) if taken else images.new_empty(0, dtype=self._dtype()))

    def _take(self, images: Tensor, targets: Tensor, order: Tensor | None) -> Tensor:
        """A step with one batch; the loss before it."""
        if images.is_cuda:
            self._refuse_cuda(images)
        step, divisor = self._next(images), self._divisor()
        if self._trained is not step.changed:
            self._trained, self._places = step.changed, places_of(step.parameters, step.changed)
            self._wanted = firsts(self._places)
        loss_line, loss_tensors = self._loss.arguments(images, targets)
        seeds = draw_seeds(1) if self._mode.is_random else None
        program, normalization = self._program(loss_line), self.fused._normalization
        try:
            sums, loss = clipped_sums(
                *(images, targets, order, step.parameters, self._places, seeds, program, normalization),
                *(self._max_norm, *loss_tensors),
            )
        except NotImplementedError as error:  # for tensors of other kinds
            raise self._reason(images, targets) or error from error
        # Nothing has changed, and no noise was drawn, where something was refused before.
        noise = self._noise([step.parameters[number] for number in self._wanted])
        arguments = (step.parameters, step.state, step.options, self._wanted, sums, noise, divisor)
        noisy_update(*arguments, self._optimizer.name)
        self._taken(step, [])
        return loss

    @serial_in_forked_child
    def _noise(self, trained: list[Tensor]) -> Tensor | None:
        """For these one after the other; drawn in the order in which the optimizer has them."""
        std = self._noise_multiplier * self._max_norm
        if std == 0 or not trained:
            return None
        sizes = [parameter.numel() for parameter in trained]
        if self._secure:
            return (std * secure_normal(sum(sizes))).to(trained[0].dtype)
        noise = torch.empty(sum(sizes), dtype=trained[0].dtype)
        parts = {id(p): part for p, part in zip(trained, noise.split(sizes), strict=True)}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                part = parts.pop(id(parameter), None)
                if part is not None:
                    part.normal_(0, std, generator=self._generator)
        return noise

    def _divisor(self) -> float:
        """Of the sums, by the reduction that the loss has now."""
        if self._loss.reduction == "sum":
            return 1.0
        if self._expected is None:
            raise ValueError(
                'TrainStep: the reduction "mean" needs expected_batch_size, the mean size of batches'
            )
        return self._expected

    def _dtype(self) -> torch.dtype:
        return next(self.fused.parameters()).dtype

    def _replay(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._refuse_cuda(images)

    @staticmethod
    def _refuse_cuda(images: Tensor) -> NoReturn:
        where = f"the images are on {images.device}"
        raise RuntimeError(f"TrainStep: max_sample_grad_norm trains on the CPU alone, {where}")


def _number(name: str, value: object, least: float | None) -> float:
    """A finite number of at least `least`, or a positive one; raises TypeError or ValueError for others."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"TrainStep: {name} must be a number, got {type(value).__name__}")
    if not (value > 0 if least is None else value >= least) or not math.isfinite(value):
        wanted = "positive" if least is None else f"at least {least}"
        raise ValueError(f"TrainStep: {name} must be {wanted} and finite, got {value}")
    return float(value)


def _refuse(reason: str) -> NoReturn:
    raise TypeError(f"TrainStep: {reason}")
