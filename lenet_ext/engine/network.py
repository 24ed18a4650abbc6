"""Network: the one description of what the fused engine runs, as a graph of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from lenet_ext.engine.layers import Layer, layer_of

__all__ = ["Network", "Node"]


class Node(NamedTuple):
    """A layer with the values that it reads and its parameters, by their numbers in the network.

    Value 0 is the network's input, value i the result of node i - 1. label: what the user calls the layer.
    """

    layer: Layer
    values: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Network:
    """Nodes in the order in which they are computed, and the values that are returned.

    name: of the public function or class that runs it, for errors.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    @classmethod
    def chain(cls, name: str, *layers: tuple[Layer, tuple[int, ...]]) -> Network:
        """Layers one after the other, each with its parameters."""
        nodes = (Node(layer, (i,), parameters) for i, (layer, parameters) in enumerate(layers))
        return cls(name, tuple(nodes), (len(layers),))

    def program(self, *options: str) -> str:
        """The description as operators take it: csrc/engine/description.h has the format.

        options: further lines, for what a training step does besides.
        """
        lines = [self.name, *map(_line, self.nodes), *options, f"return {_numbers(self.outputs)}"]
        return "\n".join(lines)

    @staticmethod
    @lru_cache(maxsize=256)
    def of(program: str) -> Network:
        """The network that `program` describes."""
        name, *lines, outputs = program.split("\n")
        return Network(name, tuple(map(_node, lines)), _taken(outputs.removeprefix("return")))

    def apply(self, input: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The output by the functions of the layers, one by one."""
        (output,) = self.outputs
        return self.values(input, parameters)[output]

    def values(self, input: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """All values: the input and the results of the nodes."""
        values = [input]
        for layer, read, own, _ in self.nodes:
            values.append(layer.apply(*(values[i] for i in read), *(parameters[i] for i in own)))
        return values


def _line(node: Node) -> str:
    label = node.label.replace("\n", " ")
    parts = (_numbers(node.values), _numbers(node.parameters), _numbers(node.layer.numbers), label)
    return f"{node.layer.kind} {' | '.join(parts)}"


def _node(line: str) -> Node:
    kind, _, rest = line.partition(" ")
    values, parameters, numbers, label = rest.split("|", 3)
    return Node(layer_of(kind, _taken(numbers)), _taken(values), _taken(parameters), label.strip())


def _numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _taken(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))
