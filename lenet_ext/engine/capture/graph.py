"""What there is to know about one node of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node


def operator_name(node: Node) -> str:
    """The operator that `node` calls, without its overload: aten.conv2d."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet or getattr(node.target, "__name__", node.target))


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


def same_sizes(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes are the same whatever the size of the batch."""
    # Here, since it takes as long to import as half of torch (sympy).
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return len(first) == len(second) and all(
        statically_known_true(one == other) for one, other in zip(first, second, strict=True)
    )


def shape_text(tensor: Tensor) -> str:
    """The shape with N for the size of the batch."""
    sizes = ["N" if isinstance(size, torch.SymInt) else str(size) for size in tensor.shape]
    return f"({', '.join(sizes)})"
