"""Which functions the code of a model refers to, as far as its bytecode shows."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

__all__ = ["references"]

# What these packages call is their own affair.
FOREIGN = ("torch", "lenet_ext")


def references(model: torch.nn.Module, functions: Mapping[str, object]) -> dict[str, list[str]]:
    """By the names of `model`'s methods, such as "Net.forward", those of `functions` that they refer to.

    What is found is there, as `torch.relu` or under a name of its own, in the method itself or in a function
    of the same package that it refers to. Methods of tensors, strings, and what is imported inside of a
    method are not found.
    """
    names = {id(function): name for name, function in functions.items()}
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    for module in model.modules():
        own = () if _package(type(module)) in FOREIGN else (module,)
        for owner in (*type(module).__mro__, *own):
            cls = owner if isinstance(owner, type) else type(owner)
            for method, value in list(vars(owner).items()) if id(owner) not in seen else ():
                used = sorted(set(_used_by(_function(value), names, None, seen)))
                if used:
                    found.setdefault(f"{cls.__name__}.{method}", []).extend(used)
            seen.add(id(owner))
    return found


def _function(value: object) -> object:
    """The function that an attribute of a class holds."""
    if isinstance(value, property):
        value = value.fget
    return getattr(value, "__func__", value)


def _used_by(value: object, names: Mapping[int, str], package: str | None, seen: set[int]) -> Iterator[str]:
    """The names of the functions that `value` is or refers to; a function is looked at once.

    package: of the functions to look at; None stands for all but those that are FOREIGN.
    """
    if id(value) in names:
        yield names[id(value)]
    elif isinstance(value, FunctionType) and id(value) not in seen:
        seen.add(id(value))
        function = inspect.unwrap(value)
        own = _package(function)
        if isinstance(function, FunctionType) and (own not in FOREIGN if package is None else own == package):
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            closure = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
            for used in _loaded(function.__code__, {**function.__globals__, **closure}):
                yield from _used_by(used, names, own, seen)


def _loaded(code: CodeType, space: Mapping[str, object]) -> Iterator[object]:
    """What `code` loads by a name, or as an attribute of a module: relu, or torch.nn.functional.relu."""
    owner: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            owner = space.get(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            # Not getattr, for which torch imports some of its modules.
            owner = vars(owner).get(instruction.argval) if isinstance(owner, ModuleType) else None
        elif instruction.opname not in ("CACHE", "PRECALL", "PUSH_NULL"):
            owner = None
        if owner is not None:
            yield owner
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a function or a comprehension inside
            yield from _loaded(constant, space)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _package(value: Any) -> str:
    # What torch.fx has written is of no module.
    return (getattr(value, "__module__", None) or "").partition(".")[0]
