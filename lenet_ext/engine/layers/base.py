"""What all layers have: their numbers for the engine, and differentiable functions that compute them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Layer", "flattened"]

# How many integers a field of a type is; one of another type has all that are left.
_LENGTHS = {"Pair": 2, "Padding": 4}


class Layer(ABC):
    """A layer apart from its parameters: a frozen dataclass of what decides what it computes.

    Its fields in their order are its numbers for the engine: those of type float its `reals`, ints, bools and
    tuples of ints its `integers`. All sizes and dimensions are those of one image: dimension 0 is the first
    behind the batch.
    """

    # What the engine calls it.
    kind: ClassVar[str]
    # Whether its result is that of each element alone, or of each channel, dimension 0: any shape will do.
    is_pointwise: ClassVar[bool] = False
    # Names and types of the fields: torch.compile cannot follow dataclasses.fields.
    _fields: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        own = inspect.get_annotations(cls)
        named = {name: str(kind) for name, kind in own.items() if not str(kind).startswith("ClassVar")}
        cls._fields = tuple({**dict(cls._fields), **named}.items())

    @property
    def integers(self) -> tuple[int, ...]:
        """The arguments as the engine takes them, those that are no reals."""
        numbers: list[int] = []
        for name, kind in self._fields:
            value = getattr(self, name)
            if kind in ("int", "bool"):
                numbers.append(int(value))
            elif kind != "float":
                numbers.extend(value)
        return tuple(numbers)

    @property
    def reals(self) -> tuple[float, ...]:
        """The other ones."""
        return tuple([float(getattr(self, name)) for name, kind in self._fields if kind == "float"])

    @classmethod
    def of(cls, integers: Sequence[int], reals: Sequence[float] = ()) -> Self:
        """The layer with these `integers` and `reals`."""
        values: list[object] = []
        left, left_reals = list(integers), list(reals)
        for _, kind in cls._fields:
            if kind == "float":
                values.append(left_reals.pop(0))
            elif kind in ("int", "bool"):
                number = left.pop(0)
                values.append(bool(number) if kind == "bool" else number)
            else:
                count = _LENGTHS.get(kind, len(left))
                values.append(tuple(left[:count]))
                left = left[count:]
        return cls(*values)

    @abstractmethod
    def apply(self, *tensors: Tensor) -> Tensor:
        """The layer's output for its values and then its parameters, differentiable in every way."""


def flattened(activation: Tensor) -> Tensor:
    """(N, ...) as (N, elements). reshape: see max_pool2d.py."""
    return activation.reshape(activation.shape[0], prod(activation.shape[1:]))
