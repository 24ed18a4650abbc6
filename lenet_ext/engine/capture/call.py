"""Call: an operator of a graph with its arguments, as readers take it."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx import Node

from lenet_ext.engine.capture.errors import BATCH, ELSEWHERE, UNKNOWN, CannotFuse, layer_name
from lenet_ext.engine.capture.graph import caller, named_arguments, operator_name, tensor
from lenet_ext.ops._arguments import Pair

EDGES = ("pad_top", "pad_bottom", "pad_left", "pad_right")


class Call:
    """`node` of a graph.

    names: of the parameters and buffers, by placeholder. model: what to call the model.
    """

    def __init__(self, node: Node, names: dict[str, str], model: str) -> None:
        self.node, self.operator = node, operator_name(node)
        self.is_in_place = self.operator.endswith("_")
        self._names, self._model = names, model
        arguments = named_arguments(node)
        if arguments is None:
            self.refuse(UNKNOWN)
        self.arguments: dict[str, Any] = {**arguments, **_lists(arguments)}

    @property
    def source(self) -> Node:
        """What the operator reads, or the first of it."""
        source = self.arguments.get("input")
        if not isinstance(source, Node):
            self.refuse(UNKNOWN)
        return source

    @property
    def input(self) -> Tensor:
        """A tensor without data like `source`."""
        return tensor(self.source)

    @property
    def output(self) -> Tensor:
        value: Tensor = self.node.meta["val"]
        return value

    @property
    def where(self) -> str:
        """The path of the module that makes the call, "" for the model itself."""
        return caller(self.node)

    def need_dims(self, dim: int, shape: str) -> None:
        """Refuses an input that does not have `dim` dimensions."""
        if self.input.dim() != dim:
            self.refuse(f"gets an input of {self.input.dim()} dimensions instead of {shape}")

    def integers(self, argument: str) -> list[int]:
        """An int or a list of them as a list."""
        value = self.arguments[argument]
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        return [self.known(number) for number in numbers]

    def known(self, number: Any) -> int:
        """`number` where it is one for all images."""
        if isinstance(number, Node):
            number = number.meta.get("val")
        if isinstance(number, torch.SymInt):
            number = number.node.maybe_as_int()
        if type(number) not in (int, bool):
            self.refuse(f"has an argument that depends on its input: {number}")
        return int(number)

    def pair(self, argument: str) -> Pair:
        """An int or a list of one or two as (height, width)."""
        numbers = self.integers(argument)
        return numbers[0], numbers[-1]

    def number(self, argument: str) -> float:
        """A number of Python's."""
        value = self.arguments[argument]
        if type(value) not in (int, float, bool):
            self.refuse(f"has {argument}={value}, which is no number that is known beforehand")
        return float(value)

    def image_dim(self, dim: Any, tensor: Tensor | None = None) -> int:
        """A dimension as images count them; refuses that of the batch."""
        dims = (self.input if tensor is None else tensor).dim()
        number = self.known(dim)
        number += dims if number < 0 else 0
        if number == 0:
            self.refuse(BATCH)
        return number - 1

    def is_parameter(self, value: Any) -> bool:
        """Whether `value`, an argument, is a Parameter itself."""
        return isinstance(value, Node) and value.name.startswith("p_") and value.name in self._names

    def name_of(self, argument: str, kind: str = "Parameter") -> str:
        """The name of the parameter or the buffer that an argument is."""
        return self.name_of_node(argument, self.arguments[argument], kind)

    def name_of_node(self, argument: str, value: Node, kind: str = "Parameter") -> str:
        if value.name not in self._names or (kind == "Parameter") != value.name.startswith("p_"):
            computed = value.op == "call_function"
            what = f"computed ({operator_name(value)})" if computed else "a buffer or constant"
            self.refuse(f"has a {argument} that is {what} instead of a {kind}")
        return self._names[value.name]

    def refuse(self, reason: str) -> NoReturn:
        """Raises the error for this call."""
        self.refuse_node(self.node, self._model, reason)

    @staticmethod
    def refuse_node(node: Node, model: str, reason: str) -> NoReturn:
        """The same for any node."""
        where = layer_name(caller(node), f"{model}.forward")
        raise CannotFuse(f"fuse: {where} ({operator_name(node)}) {reason}; {ELSEWHERE}")


def _lists(arguments: dict[str, Any]) -> dict[str, list[Any]]:
    """What torch takes as one list, from lenet_ext's single numbers."""
    groups = {
        "kernel_size": ("kernel_height", "kernel_width"),
        "stride": ("stride_h", "stride_w"),
        "padding": ("pad_h", "pad_w") if "pad_h" in arguments else EDGES,
        "dilation": ("dilation_h", "dilation_w"),
    }
    return {
        name: [arguments[part] for part in parts]
        for name, parts in groups.items()
        if all(part in arguments for part in parts)
    }
