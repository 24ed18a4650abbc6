"""The settings of a sweep: all combinations of the values that a few options have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from lenet_ext.training.config import (
    FREE_TO_CHANGE,
    TrainingConfig,
    given_options,
    new_config,
    refuse_changes,
)
from lenet_ext.training.errors import InputError

AXES = ("lr", "momentum", "weight_decay")  # the options that may have several values
MOST_MEMBERS = 100_000
# A run of the same settings, by which a member is bitwise the same, has these options.
OF_EVERY_MEMBER: dict[str, Any] = {"engine": "fused", "device": "cpu", "compare": False}


@dataclass(frozen=True)
class SweepConfig:
    """Everything that decides the outcome of a sweep, besides the data itself.

    first: the settings of the first member. seeds: how many there are, from the first member's on.
    """

    first: TrainingConfig
    lr: list[float]
    momentum: list[float]
    weight_decay: list[float]
    seeds: int

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_MEMBERS:
            raise InputError(f"--seeds {self.seeds}: wanted 1 to {MOST_MEMBERS}")
        combinations = len(self.lr) * len(self.momentum) * len(self.weight_decay)
        if combinations * self.seeds > MOST_MEMBERS:
            raise InputError(
                f"--seeds {self.seeds}: makes {combinations * self.seeds:,} networks with {combinations:,} "
                f"combinations of the other options, wanted at most {MOST_MEMBERS:,}"
            )

    def members(self) -> list[TrainingConfig]:
        """The settings of each member's run; those of one combination follow each other, seed by seed.

        Raises `InputError` where an option has a value that a run may not have.
        """
        seeds = range(self.first.seed, self.first.seed + self.seeds)
        return [
            replace(self.first, lr=lr, momentum=momentum, weight_decay=decay, seed=seed)
            for lr, momentum, decay, seed in product(self.lr, self.momentum, self.weight_decay, seeds)
        ]

    def options(self) -> dict[str, Any]:
        """As they were given, or could have been: what `resumed_sweep` takes."""
        options = {name: value for name, value in asdict(self.first).items() if name not in OF_EVERY_MEMBER}
        return {**options, **{name: getattr(self, name) for name in AXES}, "seeds": self.seeds}


def new_sweep(options: Mapping[str, Any]) -> SweepConfig:
    """The settings of a new sweep. options: as for `new_config`, and `seeds`.

    Those of `AXES` are texts or lists of numbers. Raises `InputError` for what makes no sense.
    """
    given = _numbers_read(given_options(options))
    seeds = given.pop("seeds", 1)
    several = {name: given.pop(name) for name in AXES if name in given}
    first = new_config({**given, **OF_EVERY_MEMBER, **{name: values[0] for name, values in several.items()}})
    lists = {name: several.get(name, [getattr(first, name)]) for name in AXES}
    config = SweepConfig(first, **lists, seeds=seeds)
    config.members()  # refuses what no run may have
    return config


def resumed_sweep(options: Mapping[str, Any], stored: Mapping[str, Any]) -> SweepConfig:
    """The settings of a sweep that goes on: those stored; an option may be repeated, but not changed."""
    given = _numbers_read(given_options(options))
    refuse_changes(given, stored, "sweep")
    return new_sweep({**stored, **{name: given[name] for name in FREE_TO_CHANGE & given.keys()}})


def _numbers_read(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with lists of numbers in the place of texts."""
    return {name: _numbers(name, value) if name in AXES else value for name, value in given.items()}


def _numbers(name: str, given: Any) -> list[float]:
    option = f"--{name.replace('_', '-')} {given}"
    try:
        numbers = [float(text) for text in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError) as error:
        raise InputError(f"{option}: wanted numbers with commas between them, as in 0.01,0.03") from error
    if not numbers:
        raise InputError(f"{option}: wanted at least one number")
    for number in numbers:
        if numbers.count(number) > 1:
            raise InputError(f"{option}: {number} is there twice")
    return numbers
