"""Call: an operator of a graph with its arguments, as the layers read themselves from it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from lenet_ext.engine.capture.errors import ELSEWHERE, UNKNOWN, CannotFuse, layer_name
from lenet_ext.engine.capture.graph import caller, operator_name, tensor
from lenet_ext.ops._arguments import Pair

EDGES = ("pad_top", "pad_bottom", "pad_left", "pad_right")


class Call:
    """`node` of `program`.

    names: of the parameters, by placeholder. model: what to call the model. is_first: whether nothing was
    computed before, so that the node reads the network's input.
    """

    def __init__(
        self, node: Node, program: ExportedProgram, names: dict[str, str], model: str, is_first: bool
    ) -> None:
        self.node, self.operator, self.is_first = node, operator_name(node), is_first
        self.is_in_place = self.operator.endswith("_")
        self.parameters: list[str] = []  # those that the layer takes
        self._names, self._model = names, model
        normalized = node.normalized_arguments(program.graph_module, normalize_to_only_use_kwargs=True)
        if normalized is None or not isinstance(normalized.kwargs.get("input"), Node):
            self.refuse(UNKNOWN)
        # All of them by name, defaults included.
        self.arguments: dict[str, Any] = {**normalized.kwargs, **_lists(normalized.kwargs)}

    @property
    def input(self) -> Tensor:
        """A tensor without data like the one that the layer reads."""
        return tensor(self.arguments["input"])

    @property
    def output(self) -> Tensor:
        return tensor(self.node)

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
        if not all(type(number) is int for number in numbers):
            self.refuse(f"has an argument that depends on its input: {value}")
        return numbers

    def pair(self, argument: str) -> Pair:
        """An int or a list of one or two as (height, width)."""
        numbers = self.integers(argument)
        return numbers[0], numbers[-1]

    def take_weight_and_bias(self, dim: int) -> Tensor:
        """Makes them parameters of the layer; returns a tensor like the weight, of `dim` dimensions."""
        weight, bias = tensor(self.arguments["weight"]), self.arguments["bias"]
        self.parameters.append(self._name("weight"))
        if weight.dim() != dim or weight.dtype != self.input.dtype:
            wanted = f"{dim} dimensions in {self.input.dtype}"
            got = f"{tuple(weight.shape)} in {weight.dtype}"
            self.refuse(f"has a weight of shape {got}, which must have {wanted}")
        if bias is not None:
            of_bias = tensor(bias)
            if of_bias.shape != weight.shape[:1] or of_bias.dtype != weight.dtype:
                got = f"{tuple(of_bias.shape)} in {of_bias.dtype}"
                wanted = f"{tuple(weight.shape[:1])} in {weight.dtype}"
                self.refuse(f"has a bias of shape {got}, which must have {wanted}")
            self.parameters.append(self._name("bias"))
        return weight

    def name_of(self, argument: str, value: Node) -> str:
        """The name of the parameter that `value`, an argument, is."""
        if value.name not in self._names:
            computed = value.op == "call_function"
            what = f"computed ({operator_name(value)})" if computed else "a buffer or constant"
            self.refuse(f"has a {argument} that is {what} instead of a Parameter")
        return self._names[value.name]

    def _name(self, argument: str) -> str:
        return self.name_of(argument, self.arguments[argument])

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
