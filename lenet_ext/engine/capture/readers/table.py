"""The readers by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader

    Read: TypeAlias = Callable[[Reader, Call], None]

__all__ = ["READERS", "ROWS", "Row", "reads"]


class Row(NamedTuple):
    """What users are told of a reader: the layers that it takes, the operators, the module that it is in."""

    layers: str
    operators: tuple[str, ...]
    family: str


READERS: dict[str, Read] = {}
ROWS: list[Row] = []


def reads(layers: str, *operators: str) -> Callable[[Read], Read]:
    """Makes a function the reader of `operators`, of torch unless they have a namespace.

    One that ends with "(_)" exists in place too. layers: for the table of what `fuse` takes.
    """

    def register(function: Read) -> Read:
        names = []
        for operator in operators:
            name = operator if "." in operator else f"aten.{operator}"
            plain = name.removesuffix("(_)")
            names += [plain, f"{plain}_"] if plain != name else [name]
        READERS.update(dict.fromkeys(names, function))
        shown = tuple(name.removeprefix("aten.") for name in names if not name.startswith("aten._"))
        ROWS.append(Row(layers, shown, function.__module__.rpartition(".")[2]))
        return function

    return register
