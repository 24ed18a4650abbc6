"""EngineLoss: the loss of a training step, torch's own module with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_ext._C import Watch
from lenet_ext._C import losses as engine_losses
from lenet_ext.engine.optimizers import ELSEWHERE
from lenet_ext.engine.registered import HOOKS
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["EngineLoss"]

# By the names of csrc/engine/loss.h.
MODULES: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
}
# What stands for a module with torch's defaults.
NAMES = ("cross_entropy", "mse")
FUNCTIONS: dict[Callable[..., Tensor], str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll",
    F.mse_loss: "mse",
    F.l1_loss: "l1",
    F.smooth_l1_loss: "smooth_l1",
    F.huber_loss: "huber",
    F.binary_cross_entropy: "bce",
    F.binary_cross_entropy_with_logits: "bce_with_logits",
}
OF_CLASSES = ("cross_entropy", "nll")
REDUCTIONS = ("mean", "sum")
NO_TENSORS = (None, None)  # the same object for all steps
# Up to here float64, in which options travel, has every integer.
MOST_INDEX = 2**53

# Of an option: whether torch takes it, and what it must be.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ignore_index": (lambda value: abs(value) <= MOST_INDEX, "at most 2**53 in size"),
    "label_smoothing": (lambda value: 0 <= value <= 1, "between 0 and 1"),
    "beta": (lambda value: value >= 0, "at least 0"),
    "delta": (lambda value: value > 0, "greater than 0"),
}


class EngineLoss:
    """The engine's side of `loss`: a module of torch.nn, read at each step; its function or a name of
    `NAMES` for torch's defaults. user: the public name of what takes it, for errors.

    Raises TypeError or ValueError for what the engine does not have.
    """

    def __init__(self, loss: object, user: str = "TrainStep") -> None:
        self.name, self._module = _named(loss, user)
        self._user = user
        self._options, self._tensor_names = engine_losses()[self.name]
        self._watch = Watch()
        self._spread: dict[str, Tensor] = {}
        self._given: Sequence[Tensor | None] = (None, None)
        self.of_classes = self.name in OF_CLASSES
        self._read()

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self._module, "user": self._user}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"], state["user"])  # type: ignore[misc]

    @property
    def reduction(self) -> str:
        """That of the module: "mean" or "sum"."""
        return str(self._module.reduction)

    def arguments(self, images: Tensor, targets: Tensor) -> tuple[str, Sequence[Tensor | None]]:
        """The line of the program, and the tensors among the options, for a step with these: the same objects
        as long as nothing changes.

        Raises ValueError or RuntimeError for what the module has become.
        """
        if not self._watch:
            self._read()
        if not self._tensors:
            return self._line, NO_TENSORS
        given: list[Tensor | None] = []
        for name in ("weight", "pos_weight"):
            tensor = self._tensors.get(name)
            if tensor is not None:
                if tensor.device != images.device:
                    where = f"is on {tensor.device}, the images are on {images.device}"
                    raise RuntimeError(f"{self._user}: the loss's {name} {where}: call its to(device)")
                tensor = tensor if self.of_classes else self._of_elements(name, tensor, targets)
            given.append(tensor)
        if not all(map(is_, given, self._given)):
            self._given = given
        return self._line, self._given

    def check_targets(self, targets: Tensor, outputs: Callable[[], torch.Size], lead: int = 0) -> None:
        """Raises IndexError or RuntimeError for the first target that is none, as the operator does on the
        CPU for a batch. outputs: gives the sizes of the network's, with `lead` dimensions before the batch.
        """
        if self.of_classes and targets.dtype == torch.int64:
            shape, ignored = outputs(), self._module.ignore_index
            if len(shape) < lead + 2 or targets.dim() != len(shape) - 1:  # which the operator refuses
                return
            count = shape[lead + 1]
            bad = ((targets < 0) | (targets >= count)) & (targets != ignored)
            _refuse_first(self._user, targets, bad, f"is out of range [0, {count})", IndexError)
        elif self.name == "bce" and targets.dtype.is_floating_point:
            bad = ~((targets >= 0) & (targets <= 1))
            _refuse_first(self._user, targets, bad, "is not between 0 and 1", RuntimeError)

    def _read(self) -> None:
        """What the module is now."""
        module = self._module
        kind = type(module).__name__
        if type(module) is not MODULES[self.name] or "forward" in vars(module):
            _refuse(self._user, f"{kind} computes something of its own")
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise RuntimeError(f"{self._user}: {kind} has hooks, which would not be called: {ELSEWHERE}")
        if module.reduction not in REDUCTIONS:
            what = f'the reduction of {kind} must be "mean" or "sum", got {module.reduction!r}'
            raise ValueError(f"{self._user}: {what}: {ELSEWHERE}")
        values = []
        for option in self._options:
            value, (fits, wanted) = getattr(module, option), RANGES[option]
            if not fits(value):
                raise ValueError(f"{self._user}: the {option} of {kind} must be {wanted}, got {value}")
            values.append(repr(float(value)))
        self._line = " ".join(("loss", self.name, str(module.reduction), *values))
        self._tensors: dict[str, Tensor] = {}
        self._spread = {}
        watch = Watch()
        watch.attribute(module, "__class__")
        watch.items(vars(module))
        for held in (module._buffers, module._parameters, *(getattr(module, hooks) for hooks in HOOKS)):
            watch.items(held)
        for name in self._tensor_names:
            tensor = getattr(module, name)
            if tensor is not None:
                self._tensors[name] = _checked(self._user, f"the loss's {name}", tensor)
                watch.attribute(tensor, "requires_grad")
        self._watch = watch

    @serial_in_forked_child
    def _of_elements(self, name: str, tensor: Tensor, targets: Tensor) -> Tensor:
        """A weight spread over the elements of an image, or of each image of a batch; where that takes a
        copy always in the same memory, which a CUDA graph reads.
        """
        rows = tensor.shape[0] if tensor.dim() == targets.dim() > 0 else 1
        shape = (rows, *targets.shape[1:])
        if tensor.shape == shape and tensor.is_contiguous():
            return tensor
        try:
            spread = tensor.detach().expand(shape)
        except RuntimeError as error:
            what = f"the loss's {name} {tuple(tensor.shape)} does not fit targets {tuple(targets.shape)}"
            raise RuntimeError(f"{self._user}: {what}") from error
        kept = self._spread.get(name)
        with torch.inference_mode(False), torch.no_grad():  # it is written in any mode
            if kept is None or kept.shape != shape:
                kept = self._spread[name] = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
            return kept.copy_(spread)


def _named(loss: object, user: str) -> tuple[str, nn.Module]:
    """The engine's name of a loss, and its module."""
    if isinstance(loss, str):
        if loss not in NAMES:
            known = " or ".join(f'"{name}"' for name in NAMES)
            others = "others are given as modules of torch.nn"
            raise ValueError(f"{user}: loss must be {known}, got {loss!r}: {others}")
        return loss, MODULES[loss]()
    for name, module in MODULES.items():
        if type(loss) is module:
            return name, loss
    if callable(loss) and not isinstance(loss, (nn.Module, type)):
        for function, name in FUNCTIONS.items():
            if loss is function:
                return name, MODULES[name]()
    kind = loss.__name__ if isinstance(loss, type) else getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, type) and loss in MODULES.values():
        raise TypeError(f"{user}: loss must be a module, not its class: {kind}()")
    known = ", ".join(module.__name__ for module in MODULES.values())
    return _refuse(user, f"the engine has {known} of torch.nn, not {kind}")


def _refuse(user: str, what: str) -> NoReturn:
    raise TypeError(f"{user}: {what}: {ELSEWHERE}")


def _checked(user: str, name: str, tensor: Tensor) -> Tensor:
    """A plain tensor, of which nobody wants the gradient."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        raise RuntimeError(f"{user}: {name} must be a plain dense tensor, got {type(tensor).__name__}")
    if tensor.requires_grad:
        raise RuntimeError(f"{user}: {name} requires a gradient, which would not be computed: {ELSEWHERE}")
    return tensor


def _refuse_first(user: str, targets: Tensor, bad: Tensor, why: str, error: type[Exception]) -> None:
    """Raises the error for the first target that is `bad`."""
    places = bad.nonzero()
    if len(places) > 0 and targets.dim() > 0:
        place = places[0].tolist()
        where = place[0] if len(place) == 1 else place
        target = targets[tuple(place)].item()
        text = target if isinstance(target, int) else f"{target:g}"
        raise error(f"{user}: target {text} at position {where} {why}")
