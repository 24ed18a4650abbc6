"""Network: the one description of what the fused engine runs, as a graph of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from torch import Tensor

from lenet_ext.engine.layers import BatchNorm, Dropout, Layer, layer_of

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
        nodes = (_node(line) for line in lines if "|" in line)  # the others are options
        return Network(name, tuple(nodes), _integers(outputs.removeprefix("return")))

    @cached_property
    def is_random(self) -> bool:
        """Whether a forward needs a seed."""
        return any(isinstance(node.layer, Dropout) for node in self.nodes)

    @cached_property
    def updated(self) -> tuple[int, ...]:
        """The parameters that a forward changes: running statistics."""
        tracked = (n for n in self.nodes if isinstance(n.layer, BatchNorm) and n.layer.updates)
        return tuple(number for node in tracked for number in node.parameters[-2:])

    @cached_property
    def buffers(self) -> frozenset[int]:
        """The parameters that have no gradient: running statistics."""
        tracked = (n for n in self.nodes if isinstance(n.layer, BatchNorm) and n.layer.tracked)
        return frozenset(number for node in tracked for number in node.parameters[-2:])

    @cached_property
    def read(self) -> frozenset[int]:
        """The parameters that some layer has."""
        return frozenset(number for node in self.nodes for number in node.parameters)

    @cached_property
    def first(self) -> Network:
        """What its first output needs, and that output alone; parameters keep their numbers.

        Layers have other numbers, by which dropout draws.
        """
        if len(self.outputs) == 1:
            return self
        live = {self.outputs[0]}
        for value in range(len(self.nodes), 0, -1):
            if value in live:
                live.update(self.nodes[value - 1].values)
        numbers, nodes = {0: 0}, []
        for value, node in enumerate(self.nodes, 1):
            if value in live:
                nodes.append(node._replace(values=tuple(numbers[i] for i in node.values)))
                numbers[value] = len(nodes)
        return Network(self.name, tuple(nodes), (numbers[self.outputs[0]],))

    def shapes(self, input: Tensor, parameters: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The sizes of images of all values, for tensors without data."""
        values = [input]
        for layer, read, own, _ in self.nodes:
            tensors = [*(values[i] for i in read), *(parameters[i] for i in own)]
            values.append(values[read[0]] if isinstance(layer, Dropout) else layer.apply(*tensors))
        return [tuple(value.shape[1:]) for value in values]

    def apply(
        self,
        input: Tensor,
        parameters: Sequence[Tensor],
        seed: Tensor | None = None,
        counts: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """The outputs by the functions of the layers, one by one.

        seed: int64 (1,), for dropout. counts: of the batch norms whose running statistics are `updated`, one
        after the other: the numbers of batches; None leaves all these as they are.
        """
        values = [input]
        left = None if counts is None else list(counts)
        for number, (layer, read, own, _) in enumerate(self.nodes):
            tensors = [*(values[i] for i in read), *(parameters[i] for i in own)]
            if isinstance(layer, Dropout):
                assert seed is not None
                tensors.append(layer.mask(tensors[0], seed, number))
            if isinstance(layer, BatchNorm) and layer.updates and left is not None:
                values.append(layer.apply_and_update(left.pop(0), *tensors))
            else:
                values.append(layer.apply(*tensors))
        return [values[i] for i in self.outputs]


def _line(node: Node) -> str:
    reals = " ".join(map(repr, node.layer.reals))
    label = node.label.replace("\n", " ")
    parts = (_numbers(node.values), _numbers(node.parameters), _numbers(node.layer.integers), reals, label)
    return f"{node.layer.kind} {' | '.join(parts)}"


def _node(line: str) -> Node:
    kind, _, rest = line.partition(" ")
    values, parameters, integers, reals, label = rest.split("|", 4)
    layer = layer_of(kind, _integers(integers), tuple(map(float, reals.split())))
    return Node(layer, _integers(values), _integers(parameters), label.strip())


def _numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))
