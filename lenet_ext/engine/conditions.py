"""Conditions on image sizes from a file: Python expressions, of which only arithmetic is let through."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Sequence

__all__ = ["check_conditions"]

_ALLOWED = (
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Name, ast.Load),
    *(ast.cmpop, ast.boolop, ast.unaryop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)
_FUNCTIONS = frozenset(("floor", "ceil", "trunc", "inf"))
_CALLED = frozenset(("min", "max", "abs"))
LONGEST = 10_000  # characters of a condition
LARGEST_POWER = 8


def check_conditions(conditions: Sequence[str], names: Sequence[str]) -> None:
    """Raises ValueError unless all are arithmetic on `names`, which must be names of Python."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name == "math":
            raise ValueError(f"{name!r} is no name of a size")
    for condition in conditions:
        if not isinstance(condition, str) or len(condition) > LONGEST:
            raise ValueError("a condition on sizes is no short text")
        try:
            tree = ast.parse(condition, mode="eval")
        except SyntaxError:
            raise ValueError(f"a condition on sizes cannot be read: {condition!r}") from None
        for node in ast.walk(tree):
            if not _is_arithmetic(node, names):
                raise ValueError(f"a condition on sizes is more than arithmetic: {condition!r}")


def _is_arithmetic(node: ast.AST, names: Sequence[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in names or node.id == "math" or node.id in _CALLED
    if isinstance(node, ast.Constant):
        return type(node.value) in (bool, int, float)
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in _FUNCTIONS
    if isinstance(node, ast.Call):
        called = node.func.id in _CALLED if isinstance(node.func, ast.Name) else True
        return called and isinstance(node.func, (ast.Name, ast.Attribute)) and not node.keywords
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = node.right
        return (
            isinstance(power, ast.Constant) and isinstance(power.value, int) and power.value <= LARGEST_POWER
        )
    return isinstance(node, (*_ALLOWED, ast.Pow))
