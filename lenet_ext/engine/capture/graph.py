"""What there is to know about one node of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node


def operator_name(node: Node) -> str:
    """The operator that `node` calls, without its overload: aten.conv2d."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet or getattr(node.target, "__name__", node.target))


def named_arguments(node: Node) -> dict[str, Any] | None:
    """All arguments by name, defaults included; None where `node` calls nothing with a schema.

    What operators call `self` is `input` here, as in functions.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    arguments = {}
    for place, argument in enumerate(schema.arguments):
        name = "input" if argument.name == "self" else argument.name
        given = place < len(node.args) and not argument.kwarg_only
        arguments[name] = (
            node.args[place] if given else node.kwargs.get(argument.name, argument.default_value)
        )
    return arguments


def caller(node: Node) -> str:
    """The path of the innermost module that calls `node`, "" for the model itself."""
    modules = node.meta.get("nn_module_stack") or {"": ("", None)}
    # A module's later calls have a path of the form "fc@1".
    return list(modules.values())[-1][0].split("@")[0]


def is_number(node: Node) -> bool:
    """Whether `node` computes a size, or a fact about sizes, and no tensor."""
    numbers = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    return isinstance(node.meta.get("val"), numbers)


def tensor(node: Node) -> Tensor:
    """The tensor without data that `node` stands for."""
    return node.meta["val"]


def image_shape(node: Node) -> tuple[int, ...]:
    """The sizes of what `node` stands for, without the batch; SymInts where they are not known."""
    return tuple(tensor(node).shape[1:])


def same_sizes(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes are the same whatever the size of the batch."""
    if len(first) != len(second):
        return False
    if all(type(size) is int for size in (*first, *second)):
        return tuple(first) == tuple(second)
    # Here, since it takes as long to import as half of torch (sympy).
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(one == other) for one, other in zip(first, second, strict=True))


def shape_text(tensor: Tensor) -> str:
    """The shape with N for the size of the batch."""
    sizes = ["N" if isinstance(size, torch.SymInt) else str(size) for size in tensor.shape]
    return f"({', '.join(sizes)})"


def live_nodes(nodes: Sequence[Node]) -> set[Node]:
    """Those that the outputs depend on, or that change something in place."""
    live: set[Node] = set()
    for node in reversed(nodes):
        changes = node.op == "call_function" and operator_name(node).endswith("_")
        if node.op == "output" or changes or any(user in live for user in node.users):
            live.add(node)
    return live
