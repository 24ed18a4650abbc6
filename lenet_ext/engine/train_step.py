"""TrainStep: forward, loss, backward and the optimizer's update of a fused network in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import starmap
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lenet_ext._C import BoundStep, saved_sizes
from lenet_ext.engine.fused import FusedNet
from lenet_ext.engine.losses import EngineLoss
from lenet_ext.engine.operators import draw_seeds, train, train_in_c
from lenet_ext.engine.optimizers import ELSEWHERE, EngineOptimizer, Step
from lenet_ext.engine.pace import Pace
from lenet_ext.engine.reasons import against
from lenet_ext.engine.step_graphs import StepGraphs
from lenet_ext.ops._arguments import autocast_is_on
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["TrainStep", "check_range", "check_tensors"]

# Options that make a step a private one.
PRIVATE = ("max_sample_grad_norm", "noise_multiplier", "expected_batch_size", "generator", "secure_mode")


class TrainStep:
    """A training step in one call: `loss = step(images, targets)`.

    fused: made by `fuse`, or by `fuse_ensemble`: the step then trains all members, each as it would be alone
    (EnsembleStep says what differs). Its mode decides what dropout and batch norm do, as in a call of it.
    optimizer: a torch.optim.SGD, Adam, AdamW, RMSprop, Adagrad or Adadelta over its parameters, or some of
    them; the step reads its parameter groups at each call and keeps its state where torch does, so that
    schedulers work on `step.optimizer`, and one may go on with `loss.backward()` and
    `step.optimizer.step()` at any time.
    Without it one is made: `TrainStep(fused, lr=0.1, momentum=0.9)` takes the options of torch.optim.SGD.
    loss: a CrossEntropyLoss, NLLLoss, MSELoss, L1Loss, SmoothL1Loss, HuberLoss, BCELoss or BCEWithLogitsLoss
    of torch.nn with the reduction "mean" or "sum", whose options are read at each call; its function in
    torch.nn.functional, "cross_entropy" or "mse" for torch's defaults. Targets are classes, int64, for the
    first two, or the probabilities of all classes for the first; else of the outputs' shape and dtype.
    Of a network with several outputs the loss is about the first, in which everything that is trained must
    have a part, as in (logits, probabilities); what the others alone need is not computed, and dropout drops
    other elements than in a call with the same seed.
    max_grad_norm: gradients are clipped before the update, as by torch.nn.utils.clip_grad_norm_ of all
    parameters that are trained; on the CPU alone.
    max_sample_grad_norm, noise_multiplier, expected_batch_size: private training on the CPU (DP-SGD: Abadi
    et al., "Deep learning with differential privacy", 2016; docs/private.md). The gradient of each image is
    clipped to the first, noise of standard deviation noise_multiplier * max_sample_grad_norm is added to
    their sum, and this is divided by the third where the loss is a mean. generator: a torch.Generator for
    the noise. secure_mode: the noise comes from the operating system instead.

    The same numbers as torch's, up to rounding; gradients are not kept. As in torch, parameters that do not
    require a gradient or are in no group stay as they are. Results are bitwise the same from run to run and
    for every number of threads.

    On CUDA a step that repeats becomes a CUDA graph, captured anew for batches of other sizes, and it does
    not wait for the GPU: a batch with a target that is no class, or for BCELoss an output or target that is
    no probability, changes nothing and has the loss NaN.

    Raises TypeError or ValueError for an argument that does not fit. A step raises RuntimeError for what it
    would pass over: hooks of modules, of parameters or of the optimizer, autocast, a parameter that is
    computed from others, and on CUDA one that is used twice.
    """

    def __new__(cls, fused: FusedNet | None = None, *_: object, **options: object) -> TrainStep:
        from lenet_ext.engine.ensemble import FusedEnsemble
        from lenet_ext.engine.ensemble_step import EnsembleStep
        from lenet_ext.engine.private_step import PrivateStep  # which derive from this

        kind, use = TrainStep, ""
        given = {name for name, value in options.items() if value is not None and value is not False}
        private = next((name for name in PRIVATE if name in given), None)
        if private is not None:
            kind, use = PrivateStep, "train privately"
        if isinstance(fused, FusedEnsemble):
            if private is not None:
                raise TypeError(f"TrainStep: {private} is for a network of `fuse`, not for an ensemble")
            kind, use = EnsembleStep, "train an ensemble"
        if cls is TrainStep:
            cls = kind
        elif not issubclass(cls, kind):
            raise TypeError(f"TrainStep: {cls.__name__}, which derives from it, cannot {use}")
        return super().__new__(cls)

    def __init__(
        self,
        fused: FusedNet,
        optimizer: torch.optim.Optimizer | None = None,
        loss: str | torch.nn.Module | Callable[..., Tensor] = "cross_entropy",
        *,
        max_grad_norm: float | None = None,
        max_sample_grad_norm: float | None = None,  # this one and those below are used by PrivateStep
        noise_multiplier: float | None = None,
        expected_batch_size: float | None = None,
        generator: torch.Generator | None = None,
        secure_mode: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(fused, FusedNet):
            raise TypeError(
                f"TrainStep: fused must come from lenet_ext.fuse, got {type(fused).__name__}: "
                "call lenet_ext.fuse(model, example_input) first"
            )
        self._loss, self.fused, self.loss = EngineLoss(loss), fused, loss
        if optimizer is None:
            optimizer = self._default_optimizer(options)
        elif not isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            hint = ": give it as loss=" if isinstance(optimizer, (str, torch.nn.Module)) else ""
            raise TypeError(f"TrainStep: optimizer must be a torch.optim.Optimizer, got {kind}{hint}")
        elif options:
            raise TypeError(f"TrainStep: {next(iter(options))} is an option of the optimizer, which is given")
        clipped = "" if max_grad_norm is None else f" {_norm(max_grad_norm)!r}"
        self._optimizer = self._optimizer_of(optimizer)
        self._programs: dict[tuple[str, str], str] = {}  # by that of the mode, and the loss
        self._optimizer_line = f"optimizer {self._optimizer.name}{clipped}"
        self._step: Step | None = None  # the last one
        self._loss_line: str | None = None  # of the last one, too
        self._bound: BoundStep | None = None  # the last one with all that it takes
        self._loss_tensors: Sequence[Tensor | None] = ()  # of its loss
        self._graphs: StepGraphs | None = None
        self._pace = self._new_pace()

    def _default_optimizer(self, options: dict[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.fused.parameters(), **options)

    def _optimizer_of(self, optimizer: torch.optim.Optimizer) -> EngineOptimizer:
        return EngineOptimizer(optimizer, self.fused)

    def _new_pace(self) -> Pace:
        return Pace()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """torch's object, with the options and the state of the step."""
        return self._optimizer.optimizer

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss before the update, a 0-d tensor.

        A bad target raises IndexError, changing nothing; on CUDA it makes the loss NaN, changing nothing.
        """
        if not (isinstance(images, Tensor) and isinstance(targets, Tensor)):  # a call of it would cost more
            check_tensors(images, targets)
        if images.is_cuda and not torch.cuda.is_current_stream_capturing():
            return self._replay(images, targets)
        return self._one(images, targets)

    def _one(self, images: Tensor, targets: Tensor) -> Tensor:
        """A step, and its loss."""
        step = self._next(images)
        loss_line, loss_tensors = self._loss.arguments(images, targets)
        bound, counted = self._bound, self._counted
        if bound is None or loss_line is not self._loss_line or loss_tensors is not self._loss_tensors:
            program, normalization = self._program(loss_line), self.fused._normalization
            state = (step.parameters, step.state, step.options, counted, program, normalization)
            bound = self._bound = BoundStep(*state, *loss_tensors)
            self._loss_tensors = loss_tensors
        seeds = draw_seeds(1) if self._mode.is_random else None
        losses: list[Tensor | None] = []
        try:
            # In one call into C: no KeyboardInterrupt comes between a step and its loss.
            losses.extend(starmap(bound, ((images, targets, seeds),)))
            if losses[0] is None:
                losses.clear()
                losses.extend(starmap(train_in_c, (self._arguments(step, images, targets, seeds),)))
        except NotImplementedError as error:  # for tensors of other kinds
            raise self._reason(images, targets) or error from error
        finally:
            if losses and losses[0] is not None:
                self._taken(step, counted)
        assert losses[0] is not None
        return losses[0]

    def _arguments(
        self,
        step: Step,
        images: Tensor,
        targets: Tensor,
        seeds: Tensor | None,
        order: Tensor | None = None,
        batch_size: int = 0,
    ) -> tuple[Any, ...]:
        """What the operator takes, of one step or with a batch size of several."""
        loss_line, loss_tensors = self._loss.arguments(images, targets)
        program, normalization = self._program(loss_line), self.fused._normalization
        state = (step.parameters, step.state, step.options, self._counted, seeds, program, normalization)
        return images, targets, order, *state, batch_size, *loss_tensors

    @serial_in_forked_child
    def epoch(
        self,
        images: Tensor,
        targets: Tensor,
        batch_size: int,
        permutation: Tensor | Sequence[Tensor] | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
        callback_steps: int = 100,
    ) -> Tensor:
        """A step for each batch of `batch_size` images, the last perhaps smaller; the losses (steps,).

        permutation: int64, the images to take in this order (those left out are not used; one may come
        twice); for an ensemble see EnsembleStep.epoch. callback(steps_done, losses_so_far) is called after
        every `callback_steps` steps and at the end. Targets and permutation are checked before the first
        step: an IndexError changes nothing. On CUDA the epoch waits for the GPU before it begins, to check
        them.

        Dropout draws the seeds of all steps from torch's default generator, one after the other: an epoch is
        the same, bit for bit, as its steps one by one.

        An exception after the first step, such as KeyboardInterrupt (which comes between two steps) or one of
        the callback's, has the losses of the steps that were taken in an attribute `losses`.
        """
        if batch_size < 1 or callback_steps < 1:
            raise ValueError("TrainStep: batch_size and callback_steps must be at least 1")
        check_tensors(images, targets, permutation)
        if isinstance(permutation, Tensor):
            permutation = permutation.to(images.device)
        assert not isinstance(permutation, Sequence)  # which is for an ensemble, and was refused
        order = torch.arange(len(images), device=images.device) if permutation is None else permutation
        losses: list[Tensor] = []
        if order.dim() != 1 or len(order) == 0:  # which the operator refuses, or has nothing to do for
            self._train(images, targets, order, batch_size, losses)
            return losses[0]
        self._next(images)  # refuses what the step would, before its forward is called
        self._check_indices(images, targets, permutation)
        images, targets = images.contiguous(), targets.contiguous()  # once, not for every part

        def take(done: int, count: int, losses: list[Tensor]) -> None:
            part = order[done * batch_size : (done + count) * batch_size]
            with self._pace.measured(len(part)):
                self._train(images, targets, part, batch_size, losses)

        steps = -(-len(order) // batch_size)
        return self._paced(take, steps, batch_size, images, callback, callback_steps)

    def _paced(
        self,
        take: Callable[[int, int, list[Tensor]], None],
        steps: int,
        step_images: int,
        images: Tensor,
        callback: Callable[[int, Tensor], None] | None,
        callback_steps: int,
    ) -> Tensor:
        """The losses of so many steps, some in each call of take(done, count, losses), which appends them."""
        done, losses = 0, list[Tensor]()
        try:
            while done < steps:
                count = min(self._pace.steps(step_images), steps - done)
                if callback is not None:
                    count = min(count, callback_steps - done % callback_steps)
                before = len(losses)
                take(done, count, losses)
                # Fewer where the next one cannot be taken, which then raises as the first of its part.
                done += sum(part.shape[-1] for part in losses[before:])
                if callback is not None and (done % callback_steps == 0 or done == steps):
                    callback(done, self._joined(losses, images))
        except BaseException as error:
            error.losses = self._joined(losses, images)  # type: ignore[attr-defined]
            raise
        return self._joined(losses, images)

    def _joined(self, losses: Sequence[Tensor], images: Tensor) -> Tensor:
        return torch.cat(list(losses)) if losses else torch.empty(0, device=images.device)

    def state_dict(self) -> dict[str, Any]:
        """That of `optimizer`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """That of `optimizer`; raises ValueError, changing nothing, for the state of another optimizer."""
        self._optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # These belong to this process and these parameters.
        return {**self.__dict__, "_graphs": None, "_step": None, "_bound": None, "_pace": self._new_pace()}

    def _program(self, loss_line: str) -> str:
        """What the engine does in a step, in the mode of the network in the last `_next`."""
        if loss_line is not self._loss_line:
            program = self._programs.get((self._mode.program, loss_line))
            if program is None:
                own = replace(self._mode.network.first, name="TrainStep")  # whose errors the user gets
                program = own.program(loss_line, self._optimizer_line)
                self._programs[self._mode.program, loss_line] = program
            self._loss_line, self._last_program, self._bound = loss_line, program, None
        return self._last_program

    def _next(self, images: Tensor) -> Step:
        """What a step takes besides its batch."""
        if autocast_is_on(images):
            raise RuntimeError(f"TrainStep: autocast is on, and would have no effect: {ELSEWHERE}")
        step, fused = self._step, self.fused
        if step is None or not step.watch or step.options.get_device() != images.get_device():
            tensors = fused._checked_tensors(images)
            watch = fused._registered.watch
            self._mode, self._loss_line, self._bound = fused._mode, None, None
            self._counted = fused._registered.counts
            read, names = self._read(tensors), fused._layout.tensors
            # Its watch sees where any of these change.
            step = self._step = self._optimizer.step(tensors, names, read, watch)
        elif images.shape != fused._registered.shape:
            fused._checked_tensors(images)
        return step

    def _read(self, tensors: list[Tensor]) -> frozenset[int]:
        """The numbers of those of which the first output is made.

        Raises RuntimeError for others that are to change.
        """
        network = self.fused._mode.network
        read = network.first.read
        groups = self.optimizer.param_groups
        trained = (p for group in groups for p in group["params"] if p.requires_grad)
        changed = {id(tensor) for tensor in (*trained, *(tensors[i] for i in network.updated))}
        changed -= {id(tensors[i]) for i in read}
        for number in sorted(network.read - read):
            if id(tensors[number]) in changed:
                raise RuntimeError(
                    f"TrainStep: {self.fused._layout.tensors[number]} has no part in the first output, which "
                    "the loss is about: use fuse and your own loop"
                )
        return read

    def _train(
        self, images: Tensor, targets: Tensor, order: Tensor, batch_size: int, losses: list[Tensor]
    ) -> None:
        """Appends the losses of all batches to `losses`."""
        step = self._next(images)
        if step.made and order.dim() == 1 and len(order) > batch_size:
            # The first batch makes state, with options of its own.
            for part in (order[:batch_size], order[batch_size:]):
                self._train(images, targets, part, batch_size, losses)
            return
        known, counted, steps = len(losses), self._counted, -(-order.numel() // batch_size)
        seeds = draw_seeds(steps) if self._mode.is_random else None
        arguments = self._arguments(step, images, targets, seeds, order, batch_size)
        try:
            # In one call into C: no KeyboardInterrupt comes between a step and its losses.
            losses.extend(starmap(train_in_c, (arguments,)))
        except NotImplementedError as error:  # for tensors of other kinds
            raise self._reason(images, targets) or error from error
        finally:
            if len(losses) > known and losses[-1].numel() > 0:
                self._taken(step, counted)

    def _reason(self, images: Tensor, targets: Tensor) -> Exception | None:
        """What the step has against these, as far as it is known."""
        parameters, normalized = self.fused._named(), self.fused._normalization is not None
        reason = against("TrainStep", images, parameters, normalized)
        like = {"images": images.new_empty(0, dtype=targets.dtype)}  # on their device
        return reason or against("TrainStep", targets, like, noun="targets")

    def _replay(self, images: Tensor, targets: Tensor) -> Tensor:
        """A step through a CUDA graph, where one like it came before."""
        step, normalization = self._next(images), self.fused._normalization
        if self._graphs is None or self._graphs.device != images.device:
            self._graphs = StepGraphs(images.device)
        loss_line, loss_tensors = self._loss.arguments(images, targets)
        program = self._program(loss_line)
        counted, seeds = self._counted, draw_seeds(1) if self._mode.is_random else None
        tensors = [*step.parameters, *step.state, step.options, *counted, normalization, *loss_tensors]
        kind = (
            program,
            *((tensor.shape, tensor.dtype, tensor.device) for tensor in (images, targets)),
            *(None if tensor is None else (tensor.data_ptr(), tensor.dtype) for tensor in tensors),
        )
        loss = self._graphs.run(
            lambda images, targets: train(
                *(images, targets, None, step.parameters, step.state, step.options),
                *(counted, seeds, program, normalization, 0, *loss_tensors),
            ),
            *(kind, images, targets),
        )
        self._taken(step, counted)
        return loss

    def _taken(self, step: Step, counted: list[Tensor]) -> None:
        changed = step.changed
        if self._mode.updated:
            changed = [*changed, *(step.parameters[number] for number in self._mode.updated), *counted]
        increment_version(changed)  # which an operator of the stable ABI leaves to its caller
        if step.made:
            self._optimizer.keep(step)

    def _check_indices(self, images: Tensor, targets: Tensor, order: Tensor | None) -> None:
        """Raises IndexError for what the operator could not check without waiting, or not before its first
        step.
        """

        def outputs() -> torch.Size:
            # Not by a call, which might change running statistics.
            shapes = [tuple(tensor.shape) for tensor in self.fused._checked_tensors(images)]
            (output, *_), *_ = saved_sizes(self._mode.program, tuple(images.shape), shapes)
            return torch.Size((len(images), *output))

        if len(images) > 0:
            self._loss.check_targets(targets, outputs)
        if order is not None:
            check_range("permutation", order, len(images))


def _norm(max_norm: object) -> float:
    """Raises TypeError or ValueError for what is no norm."""
    if isinstance(max_norm, bool) or not isinstance(max_norm, (int, float)):
        raise TypeError(f"TrainStep: max_grad_norm must be a number, got {type(max_norm).__name__}")
    if not max_norm >= 0:
        raise ValueError(f"TrainStep: max_grad_norm must be at least 0, got {max_norm}")
    return float(max_norm)


def check_tensors(images: object, targets: object, permutation: object = None) -> None:
    """Raises TypeError for arrays and lists."""
    for name, value in (("images", images), ("targets", targets), ("permutation", permutation)):
        if not isinstance(value, Tensor) and (value is not None or name != "permutation"):
            raise TypeError(f"TrainStep: {name} must be a torch.Tensor, got {type(value).__name__}")


def check_range(name: str, indices: Tensor, count: int) -> None:
    """Raises IndexError for the first index out of [0, count), as the operator does for a block of them."""
    bad = ((indices < 0) | (indices >= count)).nonzero()
    if len(bad) > 0 and indices.dim() == 1:
        place = int(bad[0])
        value = int(indices[place])
        raise IndexError(f"TrainStep: {name} {value} at position {place} is out of range [0, {count})")
