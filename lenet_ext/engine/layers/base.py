"""What all layers have: their numbers for the engine, and how they are computed by differentiable functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import fields
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

    @property
    def integers(self) -> tuple[int, ...]:
        """The arguments as the engine takes them, those that are no reals."""
        numbers: list[int] = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type in ("int", "bool"):
                numbers.append(int(value))
            elif field.type != "float":
                numbers.extend(value)
        return tuple(numbers)

    @property
    def reals(self) -> tuple[float, ...]:
        """The other ones."""
        return tuple(float(getattr(self, f.name)) for f in fields(self) if f.type == "float")  # type: ignore[arg-type]

    @classmethod
    def of(cls, integers: Sequence[int], reals: Sequence[float] = ()) -> Self:
        """The layer with these `integers` and `reals`."""
        return cls(*cls._values(list(integers), list(reals)))

    @classmethod
    def _values(cls, integers: list[int], reals: list[float]) -> Iterator[object]:
        for field in fields(cls):  # type: ignore[arg-type]
            if field.type == "float":
                yield reals.pop(0)
            elif field.type in ("int", "bool"):
                number = integers.pop(0)
                yield bool(number) if field.type == "bool" else number
            else:
                count = _LENGTHS.get(str(field.type), len(integers))
                yield tuple(integers[:count])
                del integers[:count]

    @abstractmethod
    def apply(self, *tensors: Tensor) -> Tensor:
        """The layer's output for its values and then its parameters, differentiable in every way."""


def flattened(activation: Tensor) -> Tensor:
    """(N, ...) as (N, elements). reshape: see max_pool2d.py."""
    return activation.reshape(activation.shape[0], prod(activation.shape[1:]))
