"""FlatState: a part of an optimizer's state in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["FlatState", "State", "StepCounts"]

State: TypeAlias = dict[str, Tensor]  # what torch keeps for one parameter


class FlatState:
    """The tensors of one name in the states of all parameters, as views of one, which the operator takes.

    To take them apart would cost a small step 2 us.
    """

    def __init__(self, name: str) -> None:
        self.views: list[Tensor] = []  # of each parameter, with state or without
        self._name, self._whole = name, torch.empty(0)

    def holding(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        states: Sequence[State | None],
        initial: float = 0.0,
    ) -> Tensor:
        """The tensor whose views are in `states`, or `initial` for those that have none yet; empty if all are
        None. A parameter that comes twice has the same view twice.

        What is elsewhere is moved. Raises RuntimeError for a tensor that cannot be its parameter's.
        """
        if all(state is None for state in states):
            return self._new(parameters[0], 0, initial)
        held = [None if state is None else state.get(self._name) for state in states]
        if len(self.views) == len(states) and all(
            state is None or tensor is view
            for state, tensor, view in zip(states, held, self.views, strict=True)
        ):
            return self._whole
        for parameter, name, tensor in zip(parameters, names, held, strict=True):
            if tensor is not None and not self._fits(tensor, parameter):
                what = f"{self._name} of {name} is {_text(tensor)}, the parameter {_text(parameter)}"
                raise RuntimeError(f"TrainStep: {what}")
        shapes = [self._shape(parameter) for parameter in parameters]
        sizes = [shape.numel() for shape in shapes]
        with torch.inference_mode(False), torch.no_grad():  # later steps write into it in any mode
            self._whole = self._new(parameters[0], sum(sizes), initial)
            parts = zip(self._whole.split(sizes), shapes, strict=True)
            views: dict[int, Tensor] = {}
            for parameter, (part, shape) in zip(parameters, parts, strict=True):
                views.setdefault(id(parameter), part.view(shape))
            self.views = [views[id(parameter)] for parameter in parameters]
            for state, tensor, view in zip(states, held, self.views, strict=True):
                if state is not None and tensor is not None:
                    state[self._name] = view.copy_(tensor)
        return self._whole

    def _shape(self, parameter: Tensor) -> torch.Size:
        return parameter.shape

    def _new(self, parameter: Tensor, size: int, initial: float) -> Tensor:
        """Of the kind of `parameter`."""
        return parameter.new_full((size,), initial)

    def _fits(self, tensor: object, parameter: Tensor) -> bool:
        return isinstance(tensor, Tensor) and _kind(tensor) == _kind(parameter)


class StepCounts(FlatState):
    """The number of steps of each parameter. In torch it may lie on the CPU; the operator takes it where the
    parameters are, and torch's own step does so too. shape: of each; one number, or one for each member of an
    ensemble, which is filled with that of a single number.
    """

    def __init__(self, name: str, shape: tuple[int, ...] = ()) -> None:
        super().__init__(name)
        self._each = torch.Size(shape)

    def _shape(self, parameter: Tensor) -> torch.Size:
        return self._each

    def _new(self, parameter: Tensor, size: int, initial: float) -> Tensor:
        return parameter.new_full((size,), initial, dtype=torch.float32)

    def _fits(self, tensor: object, parameter: Tensor) -> bool:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return False
        return tensor.numel() in (1, self._each.numel())


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _text(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}"
