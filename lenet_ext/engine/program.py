"""The integers that describe a chain of stages to the engine (csrc/engine/network.h), written and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

GEOMETRY_NUMBERS = 9
POOL_NUMBERS = 9


class Core(IntEnum):
    """What a stage begins with; the numbers are those of csrc/engine/network.h."""

    NONE = 0
    CONV2D = 1
    LINEAR = 2


class Stage(NamedTuple):
    """conv2d, linear or nothing, then relu, then max_pool2d, each of the last two if wanted, then flattening.

    geometry: of conv2d, stride (2), padding (top, bottom, left, right), dilation (2), groups. pool:
    kernel_size, stride, padding, dilation (2 each), ceil_mode.
    """

    core: Core
    bias: bool = False
    relu: bool = False
    flattened: bool = False
    geometry: tuple[int, ...] | None = None
    pool: tuple[int, ...] | None = None

    def encode(self) -> tuple[int, ...]:
        flags = (int(self.bias), int(self.relu), int(self.pool is not None), int(self.flattened))
        return int(self.core), *flags, *(self.geometry or ()), *(self.pool or ())


def decode(program: Sequence[int]) -> Iterator[Stage]:
    """The stages of `program`, which an operator has checked or will check."""
    values = iter(program)

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(values) for _ in range(count))

    for core in values:
        bias, relu, pooled, flattened = map(bool, take(4))
        geometry = take(GEOMETRY_NUMBERS) if core == Core.CONV2D else None
        yield Stage(Core(core), bias, relu, flattened, geometry, take(POOL_NUMBERS) if pooled else None)
