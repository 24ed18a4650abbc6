"""EnsembleStep: a training step of all members of an ensemble in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenet_ext._C import saved_sizes
from lenet_ext.engine.ensemble import FusedEnsemble
from lenet_ext.engine.ensemble_optimizer import EnsembleOptimizer, sgd
from lenet_ext.engine.operators import draw_seeds, train_ensemble_in_c
from lenet_ext.engine.optimizers import Step
from lenet_ext.engine.pace import Pace
from lenet_ext.engine.train_step import TrainStep, check_range, check_tensors
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["EnsembleStep"]

# Between two looks for signals. Longer than for one network: the more steps a member takes at once, the less
# often its parameters travel from memory into the cache and back.
SECONDS = 0.25


class _Work(NamedTuple):
    """What the members take their steps over.

    given: the images as the step was given them. images, targets: of all members, one after the other where
    they are their own. order: the numbers of images, of one member after the other, or None. begins, ends: of
    each member, (K,), in the order, or in the images. seeds: (K, steps), or None.
    """

    given: Tensor
    images: Tensor
    targets: Tensor
    order: Tensor | None
    begins: Tensor
    ends: Tensor
    batch_size: int
    seeds: Tensor | None

    def steps(self) -> int:
        """The most that a member takes."""
        counts = self.ends - self.begins
        return int(-(-int(counts.max()) // self.batch_size)) if len(counts) else 0

    def part(self, done: int, count: int) -> _Work:
        """`count` steps after the first `done`."""
        begins = torch.minimum(self.begins + done * self.batch_size, self.ends)
        ends = torch.minimum(begins + count * self.batch_size, self.ends)
        seeds = None if self.seeds is None else self.seeds[:, done : done + count].contiguous()
        return self._replace(begins=begins, ends=ends, seeds=seeds)


class EnsembleStep(TrainStep):
    """`TrainStep` of an ensemble: losses are (K,), and each member's bits those of its network trained alone.

    Options of torch.optim.SGD, or of the groups of a given optimizer, may be tensors (K,), one a member.
    Images and targets are for all members, or each have a dimension (K,) in front, for each its own. A member
    whose loss becomes NaN does not disturb the others; a step of a member for whose outputs there is no loss
    changes nothing and has the loss NaN.
    """

    fused: FusedEnsemble

    def _optimizer_of(self, optimizer: torch.optim.Optimizer) -> EnsembleOptimizer:
        return EnsembleOptimizer(optimizer, self.fused)

    def _default_optimizer(self, options: dict[str, Any]) -> torch.optim.Optimizer:
        return sgd(self.fused, options)

    @serial_in_forked_child
    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The losses before the update, (K,). A bad target raises IndexError, changing nothing."""
        check_tensors(images, targets)
        step = self._next(images)
        work = self._work(images, targets, None, None)
        if work.steps() == 0 and len(self.fused) > 0:
            raise RuntimeError("TrainStep: the batch is empty")
        losses: list[Tensor] = []
        refused = None
        try:
            self._take(step, work, losses)
        except (IndexError, RuntimeError) as error:
            refused = error
        if refused is not None:
            self._check_targets(step, images, targets)  # which says it in the shapes that the user gave
            raise refused
        # Of no member there are no steps.
        return losses[0][:, 0] if len(self.fused) > 0 else losses[0].flatten()

    @serial_in_forked_child
    def epoch(  # type: ignore[override]
        self,
        images: Tensor,
        targets: Tensor,
        batch_size: int,
        orders: Tensor | Sequence[Tensor] | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
        callback_steps: int = 100,
        *,
        seeds: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Each member's steps over its images, in batches of `batch_size`, the last perhaps smaller.

        orders: int64, the images to take, in this order: (K, n), or K tensors of any lengths; all in turn
        where it is None. Returns the losses, (K, steps); for K tensors a list of K. callback(steps_done,
        losses_so_far) as in TrainStep.epoch, with losses (K, steps_done), NaN where a member took no step.
        seeds: int64 (K, steps), for dropout; by default drawn from torch's default generator, step by step.

        Targets and orders are checked before the first step: an IndexError changes nothing. An exception
        after it has the losses of the steps that were taken in an attribute `losses`.
        """
        if batch_size < 1 or callback_steps < 1:
            raise ValueError("TrainStep: batch_size and callback_steps must be at least 1")
        check_tensors(images, targets)
        step = self._next(images)  # refuses what the step would
        work = self._work(images, targets, batch_size, orders)
        self._check_targets(step, images, targets)
        steps = work.steps()
        work = work._replace(seeds=self._seeds(steps, seeds))

        def take(done: int, count: int, losses: list[Tensor]) -> None:
            part = work.part(done, count)
            with self._pace.measured(max(1, int((part.ends - part.begins).sum()))):
                self._take(self._next(images), part, losses)

        step_images = batch_size * len(self.fused)
        whole = self._paced(take, steps, step_images, images, callback, callback_steps)
        if orders is None or isinstance(orders, Tensor):
            return whole
        counts = (work.ends - work.begins).tolist()
        return [row[: -(-count // batch_size)] for row, count in zip(whole, counts, strict=True)]

    def _take(self, step: Step, work: _Work, losses: list[Tensor]) -> None:
        """Appends the losses of all its steps, (K, steps)."""
        steps = work.steps()
        if step.made:
            self._check_first(step, work)
            if steps > 1:  # the first makes state, with options of its own
                self._take(step, work.part(0, 1), losses)
                return self._take(self._next(work.given), work.part(1, steps - 1), losses)
        known, members = len(losses), len(self.fused)
        loss_line, loss_tensors = self._loss.arguments(work.images, work.targets)
        program, normalization = self._program(loss_line), self.fused._normalization
        counted = [count if count.dim() else count.expand(members).clone() for count in self._counted]
        seeds = work.seeds
        if self._mode.is_random and seeds is None:
            seeds = self._seeds(steps, None)
        state = (step.parameters, step.state, step.options, counted, seeds, program, normalization)
        ranges = torch.stack((work.begins, work.ends), dim=1)
        batch = (work.images, work.targets, work.order, ranges, *state, work.batch_size, *loss_tensors)
        try:
            # In one call into C: no KeyboardInterrupt comes between steps and their losses.
            losses.extend(starmap(train_ensemble_in_c, [batch]))
        except NotImplementedError as error:  # for tensors of other kinds
            raise self._reason(work.images, work.targets) or error from error
        finally:
            if len(losses) > known and losses[-1].numel() > 0:
                self._taken(step, counted)

    def _check_first(self, step: Step, work: _Work) -> None:
        """torch's SGD begins with the gradient itself, undamped: all members must begin together."""
        damped = any(
            bool(torch.as_tensor(g.get("dampening", 0) != 0).any()) for g in self.optimizer.param_groups
        )
        if damped and bool((work.ends == work.begins).any()):
            raise RuntimeError(
                "TrainStep: with dampening every member must take part in the first step, in which torch "
                "leaves it out"
            )

    def _work(
        self,
        images: Tensor,
        targets: Tensor,
        batch_size: int | None,
        orders: Tensor | Sequence[Tensor] | None,
    ) -> _Work:
        members, own, given = len(self.fused), self.fused.has_own(images), images
        count = images.shape[1] if own else len(images)
        if own:
            if targets.shape[:2] != images.shape[:2]:
                wanted = f"({members}, {count}, ...) like the images"
                raise RuntimeError(f"TrainStep: targets must be {wanted}, got {tuple(targets.shape)}")
            images, targets = images.flatten(0, 1), targets.flatten(0, 1)
        images, targets = images.contiguous(), targets.contiguous()
        offsets = torch.arange(members) * count if own else torch.zeros(members, dtype=torch.int64)
        if orders is None:
            ends = offsets + count
            return _Work(given, images, targets, None, offsets, ends, batch_size or max(count, 1), None)
        parts = self._orders(orders, count)
        lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        ends = lengths.cumsum(0)
        shifted = [part + offset for part, offset in zip(parts, offsets.tolist(), strict=True)]
        order = torch.cat(shifted) if shifted else torch.empty(0, dtype=torch.int64)
        return _Work(given, images, targets, order, ends - lengths, ends, batch_size or 1, None)

    def _orders(self, orders: Tensor | Sequence[Tensor], count: int) -> list[Tensor]:
        """That of each member. Raises TypeError, RuntimeError or IndexError for what is none."""
        members = len(self.fused)
        if not isinstance(orders, Iterable) or (isinstance(orders, Tensor) and orders.dim() != 2):
            got = tuple(orders.shape) if isinstance(orders, Tensor) else type(orders).__name__
            raise TypeError(f"TrainStep: orders must be int64 ({members}, n) or {members} tensors, got {got}")
        parts = list(orders)
        if len(parts) != members:
            raise RuntimeError(f"TrainStep: there must be {members} orders, one a member, got {len(parts)}")
        for member, part in enumerate(parts):
            if not isinstance(part, Tensor):
                raise TypeError(f"TrainStep: the order of member {member} must be a torch.Tensor")
            if part.dtype != torch.int64 or part.dim() != 1:
                kind = f"{tuple(part.shape)} in {part.dtype}"
                raise RuntimeError(f"TrainStep: the order of member {member} must be int64 (n,), got {kind}")
        if parts and not all(len(part) == 0 for part in parts):
            every = torch.cat([part.cpu() for part in parts])
            if int(every.min()) < 0 or int(every.max()) >= count:
                for member, part in enumerate(parts):
                    check_range(f"order of member {member}:", part, count)
        return [part.cpu() for part in parts]

    def _check_targets(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Raises IndexError or RuntimeError for the first target that is none, as the operator does."""
        own = self.fused.has_own(images)
        shapes = [tuple(tensor.shape[1:]) for tensor in step.parameters]
        sizes = tuple(images.shape[1:] if own else images.shape)
        (output, *_), *_ = saved_sizes(self._mode.program, sizes, shapes)
        lead = (len(self.fused),) if own else ()
        expected = len(output) + (0 if self._loss.of_classes and targets.dtype == torch.int64 else 1)
        if not own and targets.dim() == expected + 1 and len(targets) == len(self.fused):
            raise RuntimeError(
                f"TrainStep: targets {tuple(targets.shape)} are each member's own, the images are for all: "
                "give each member its own images too"
            )
        if targets.numel():
            batch = (sizes[0], *output)
            self._loss.check_targets(targets, lambda: torch.Size((*lead, *batch)), len(lead))

    def _seeds(self, steps: int, seeds: Tensor | None) -> Tensor | None:
        members = len(self.fused)
        if seeds is not None:
            if not isinstance(seeds, Tensor):
                raise TypeError(f"TrainStep: seeds must be a torch.Tensor, got {type(seeds).__name__}")
            if seeds.dtype != torch.int64 or seeds.shape != (members, steps):
                kind = f"{tuple(seeds.shape)} in {seeds.dtype}"
                raise RuntimeError(f"TrainStep: seeds must be int64 ({members}, {steps}), got {kind}")
            return seeds.cpu().contiguous()
        if not self._mode.is_random:
            return None
        # Step by step, so that an epoch is its steps one by one.
        return draw_seeds(steps * members).view(steps, members).t().contiguous()

    def _joined(self, losses: Sequence[Tensor], images: Tensor) -> Tensor:
        if losses:
            return torch.cat(list(losses), dim=1)
        return torch.empty(len(self.fused), 0, dtype=self._dtype(images))

    def _dtype(self, images: Tensor) -> torch.dtype:
        return images.dtype if images.dtype.is_floating_point else next(self.fused.parameters()).dtype

    def _new_pace(self) -> Pace:
        return Pace(SECONDS)
