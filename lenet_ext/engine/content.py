"""Contents: what values hold, as texts that are equal where networks with them compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, strided
from torch.fx import Graph

__all__ = ["Contents", "own_class"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice)
LIBRARIES = ("torch.", "lenet_ext.", "builtins.")
# Of a class: what says nothing about what it does.
UNIMPORTANT = (
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__qualname__", "__slots__"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"),
    "__annotations_cache__",
)
DEEPEST = 12  # parts of parts; what an object holds deeper says little about a network
MOST_SHOWN = 16  # elements of a tensor


def own_class(cls: type) -> bool:
    """Whether a class is neither torch's nor ours."""
    return not f"{cls.__module__}.".startswith(LIBRARIES)


class Contents:
    """known: texts for objects that are described elsewhere, by their ids."""

    def __init__(self, known: Mapping[int, str]) -> None:
        self._known = known

    def text(self, value: object) -> str:
        return _Description(self._known).text(value, 0)


class _Description:
    """Of one value. What is met again, as where objects know each other, is told by its number."""

    def __init__(self, known: Mapping[int, str]) -> None:
        self._known = dict(known)
        self._met: list[object] = []  # kept, or another might get its id

    def text(self, value: object, depth: int) -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        if id(value) in self._known:
            return self._known[id(value)]
        if depth > DEEPEST:
            return type(value).__qualname__
        self._known[id(value)] = f"part {len(self._met)} again"
        self._met.append(value)
        return self._whole(value, depth + 1)

    def _whole(self, value: object, depth: int) -> str:
        def parts(*values: object) -> str:
            return ", ".join(self.text(one, depth) for one in values)

        if isinstance(value, Tensor):
            return f"a tensor {tuple(value.shape)} in {value.dtype} on {value.device}: {_values(value)}"
        if isinstance(value, Graph):  # of torch.fx
            return str(value)
        if isinstance(value, Mapping):
            pairs = [f"{parts(key)}: {parts(one)}" for key, one in value.items()]
            return f"{type(value).__qualname__}({', '.join(pairs)})"
        if isinstance(value, (tuple, list)):
            return f"{type(value).__qualname__}({parts(*value)})"
        if isinstance(value, (set, frozenset)):
            return f"{type(value).__qualname__}({', '.join(sorted(map(parts, value)))})"
        if isinstance(value, FunctionType):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            own = parts(value.__code__, value.__defaults__, value.__kwdefaults__, *cells)
            return f"{value.__module__}.{value.__qualname__}({own})"
        if isinstance(value, CodeType):
            names = (value.co_names, value.co_varnames, value.co_freevars)
            whole = f"{value.co_code.hex()} {parts(*names, *value.co_consts)}"
            return f"code {_digest(whole)}"
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            return value.__qualname__ if owner is None else f"{value.__qualname__} of {parts(owner)}"
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, MethodType):
            return f"a method of {parts(value.__self__)}: {parts(value.__func__)}"
        if isinstance(value, partial):
            return f"partial({parts(value.func, value.args, value.keywords)})"
        if isinstance(value, (staticmethod, classmethod)):
            return f"{type(value).__name__}({parts(value.__func__)})"
        if isinstance(value, property):
            return f"property({parts(value.fget)})"
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, type):
            full = f"{value.__module__}.{value.__qualname__}"
            if not own_class(value):
                return full
            members = {key: one for key, one in vars(value).items() if key not in UNIMPORTANT}
            return f"{full}({parts(members, value.__bases__)})"
        if hasattr(value, "__dict__"):
            return f"{name}({parts(vars(value))})"
        text = repr(value)
        return name if " at 0x" in text else text


def _values(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "no values"
    if tensor.layout != strided:
        return repr(tensor)
    text = repr(tensor.detach().cpu().tolist())
    return text if tensor.numel() <= MOST_SHOWN else f"values {_digest(text)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None
