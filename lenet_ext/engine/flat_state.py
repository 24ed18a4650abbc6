"""FlatState: a part of an optimizer's state in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["FlatState", "State"]

State: TypeAlias = dict[str, Tensor]  # what torch keeps for one parameter


class FlatState:
    """The tensors of one name in the states of all parameters, as views of one, which the operator takes.

    To take them apart would cost a small step 2 us.
    """

    def __init__(self, name: str) -> None:
        self.views: list[Tensor] = []  # of each parameter, with state or without
        self._name, self._whole = name, torch.empty(0)

    def holding(
        self, parameters: Sequence[Tensor], names: Sequence[str], states: Sequence[State | None]
    ) -> Tensor:
        """The tensor whose views are in `states`, or zero for those that have none yet; empty if all are
        None.

        What is elsewhere is moved. Raises RuntimeError for a tensor that cannot be its parameter's.
        """
        if all(state is None for state in states):
            return parameters[0].new_empty(0)
        held = [None if state is None else state.get(self._name) for state in states]
        if len(self.views) == len(states) and all(
            state is None or tensor is view
            for state, tensor, view in zip(states, held, self.views, strict=True)
        ):
            return self._whole
        for parameter, name, tensor in zip(parameters, names, held, strict=True):
            if tensor is not None and _kind(tensor) != _kind(parameter):
                what = f"{self._name} of {name} is {_text(tensor)}, the parameter {_text(parameter)}"
                raise RuntimeError(f"TrainStep: {what}")
        sizes = [parameter.numel() for parameter in parameters]
        with torch.inference_mode(False), torch.no_grad():  # later steps write into it in any mode
            self._whole = parameters[0].new_zeros(sum(sizes))
            parts = zip(self._whole.split(sizes), parameters, strict=True)
            self.views = [part.view(parameter.shape) for part, parameter in parts]
            for state, tensor, view in zip(states, held, self.views, strict=True):
                if state is not None and tensor is not None:
                    state[self._name] = view.copy_(tensor)
        return self._whole


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _text(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}"
