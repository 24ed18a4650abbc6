"""Reads the graph of a network, made by torch.export, as layers.

The nodes are read in order, each by the reader for its operator (readers/), which gives the value that it
stands for. Whatever has no reader is refused, since a fused network computes exactly what the model does.
Operators in place and views are followed: a tensor that another name has changed is read as changed, or
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_unflatten

from lenet_ext.engine.capture.builder import Builder
from lenet_ext.engine.capture.call import Call
from lenet_ext.engine.capture.errors import BATCH, ELSEWHERE, HINTS, UNKNOWN, CannotFuse
from lenet_ext.engine.capture.graph import (
    image_shape,
    is_number,
    live_nodes,
    operator_name,
    same_sizes,
    tensor,
)
from lenet_ext.engine.capture.readers import READERS
from lenet_ext.engine.layers import Flatten, Layer, Reshape

__all__ = ["Leaf", "Reader"]

# The end of the name of the buffer in which batch norm counts.
COUNTER = "num_batches_tracked"
IGNORED = (
    "aten._assert_tensor_metadata",
    "aten.sym_constrain_range_for_size",
    "lenet_ext.network_statistics",
)


class Held(NamedTuple):
    """The value that a node holds.

    memory: equal for nodes that may share it. name: equal for those that are one tensor.
    """

    value: int
    memory: int
    name: int


class Reader:
    """Reads `program` into the `entries` of the layers, of which the model returns the values `outputs`.

    names: of the parameters and buffers, by placeholder. model: what to call the model. structure: what the
    model returns, with a Leaf for each tensor.
    """

    def __init__(self, program: ExportedProgram, names: dict[str, str], model: str) -> None:
        self.names, self.model = names, model
        self.held: dict[Node, Held | None] = {}  # None: another name has changed it
        # Of operators that return several tensors, or lists of them by number.
        self.lists: dict[Node, list[Held] | dict[int, list[Held]] | None] = {}
        self._ids = 0
        self._mutation: Node | None = None
        self._counted: list[str] = []
        nodes = list(program.graph.nodes)
        live = live_nodes(nodes)
        for node in nodes:
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
                self._take_input(node)
            elif node.op == "call_function":
                self._read(node, node in live)
            elif node.op == "output":
                self._finish(node.args[0])
        self.structure = tree_unflatten(self._leaves, program.call_spec.out_spec)

    # What readers call.

    def value(self, call: Call, node: Any) -> int:
        """The value that `node`, an argument of `call`, holds."""
        if not isinstance(node, Node) or node not in self.held:
            what = operator_name(node) if isinstance(node, Node) and node.op == "call_function" else node
            call.refuse(f"combines the network's values with something else: {what}")
        held = self.held[node]
        if held is None:
            call.refuse("reads a view whose elements were changed in place under another name")
        return held.value

    def shape(self, value: int) -> tuple[Any, ...]:
        """Of images of `value`."""
        return self.builder.shapes[value]

    def emit(
        self,
        layer: Layer,
        values: Sequence[int],
        shape: Sequence[Any],
        parameters: Sequence[str] = (),
        counter: str | None = None,
    ) -> int:
        """A value made by a layer."""
        return self.builder.emit(layer, values, shape, parameters, counter)

    def give(self, call: Call, value: int, view: bool = False, same: bool = False) -> None:
        """Makes the result of `call` hold `value`.

        view: the result may share the memory of what it reads. same: it is the same tensor.
        """
        if call.is_in_place:
            source = call.source
            held = self.held[source]
            assert held is not None
            if held.value == value:
                self.held[call.node] = held
                return
            if held.memory == self.input_memory:
                call.refuse("overwrites the network's input")
            self._overwrite(held, value)
            self.held[call.node] = self.held[source]
            return
        held = self.held[call.source] if view or same else None
        self.held[call.node] = self.new(value, held, same)

    def give_list(self, call: Call, values: Sequence[int], view: bool = False) -> None:
        """The same for an operator with several results."""
        held = self.held[call.source] if view else None
        self.lists[call.node] = [self.new(value, held, False) for value in values]

    def new(self, value: int, held: Held | None, same: bool) -> Held:
        self._ids += 1
        memory = self._ids if held is None else held.memory
        return Held(value, memory, held.name if held is not None and same else self._ids)

    def apply(self, call: Call, layer: Layer, parameters: Sequence[str] = ()) -> None:
        """Makes the result of `call` that of a layer which reads its input."""
        value = self.value(call, call.source)
        # Some operators in place return nothing.
        shape = self.shape(value) if layer.is_pointwise else image_shape(call.node)
        self.give(call, self.emit(layer, [value], shape, parameters))

    def reshaped(self, call: Call, value: int, shape: Sequence[Any]) -> int:
        """`value` in another shape."""
        result = self.builder.reshape(value, shape)
        if result is None:
            call.refuse("has a shape with several sizes that are not known beforehand")
        return result

    # How nodes are read.

    def _take_input(self, node: Node) -> None:
        self.builder = Builder(image_shape(node))
        self.batch = tensor(node).shape[:1]
        self.held[node] = held = self.new(0, None, False)
        self.input_memory = held.memory

    def _read(self, node: Node, live: bool) -> None:
        name = operator_name(node)
        inputs = [
            argument for argument in node.all_input_nodes if argument in self.held or argument in self.lists
        ]
        if is_number(node) or name in IGNORED:
            return
        if not live:
            if name == "aten.batch_norm" and node.args[5]:
                self.refuse(node, "changes running statistics, but its result is not used")
            return
        if not inputs:
            # Made of parameters or constants alone: refused where it is used, or where it changes the model.
            if name.endswith("_"):
                self._mutate(node)
            return
        if name == "getitem":
            self._take_item(node)
            return
        reader = READERS.get(name)
        if reader is None:
            self.refuse(node, HINTS.get(name, UNKNOWN))
        call = Call(node, self.names, self.model)
        self.builder.where = call.where
        reader(self, call)
        returned = node.meta.get("val")
        if isinstance(returned, Tensor) and not same_sizes(returned.shape[:1], self.batch):
            call.refuse(BATCH)

    def _take_item(self, node: Node) -> None:
        source, number = node.args
        results = self.lists.get(source, ())  # type: ignore[arg-type]
        if results is None:
            self.refuse(node, "reads a view whose elements were changed in place under another name")
        if isinstance(results, list) and isinstance(number, int) and number < len(results):
            self.held[node] = results[number]
            return
        if isinstance(results, dict) and isinstance(number, int) and number in results:
            self.lists[node] = results[number]
            return
        self.refuse(node, "takes the positions of a max_pool2d (return_indices=True)")

    def _overwrite(self, changed: Held, value: int) -> None:
        """Makes all names of the tensor hold `value`, and forgets what else lies in its memory."""
        for node, held in self.held.items():
            if held is not None and held.memory == changed.memory:
                self.held[node] = held._replace(value=value) if held.name == changed.name else None
        for node, results in self.lists.items():
            if isinstance(results, list) and any(held.memory == changed.memory for held in results):
                self.lists[node] = None

    def _mutate(self, node: Node) -> None:
        target = node.args[0]
        while (
            isinstance(target, Node) and target.op == "call_function" and operator_name(target).endswith("_")
        ):
            target = target.args[0]  # the same tensor
        if isinstance(target, Node) and target.op == "placeholder":
            name = self.names.get(target.name, "")
            if name.endswith(COUNTER) and operator_name(node) == "aten.add_" and node.args[1] == 1:
                self._counted.append(name)
                return
            self._mutation = self._mutation or node

    def count(self, name: str) -> str | None:
        """The counter of a batch norm whose running mean is called `name`, if it was counted."""
        counter = ".".join([*name.split(".")[:-1], COUNTER])
        if counter not in self._counted:
            return None
        self._counted.remove(counter)
        return counter

    def _finish(self, results: Sequence[Any]) -> None:
        outputs: list[int] = []
        self._leaves: list[Any] = []
        for result in results:
            if isinstance(result, Node) and result in self.held:
                held = self.held[result]
                if held is None:
                    self.fail(f"{self.model} returns a view whose elements were changed in place")
                if held.value == 0:
                    self.fail(f"{self.model} has no layer to fuse, or returns its input")
                if held.value not in outputs:
                    outputs.append(held.value)
                self._leaves.append(Leaf(outputs.index(held.value)))
            elif isinstance(result, Node):
                self.fail(f"{self.model} returns something that is not computed from its input: {result}")
            else:
                self._leaves.append(result)
        if self._mutation is not None:
            self.refuse(self._mutation, "changes a buffer or a parameter in place")
        if self._counted:
            self.fail(f"{self.model} changes {self._counted[0]}, but no batch norm uses it")
        if not outputs:
            self.fail(f"{self.model} returns no tensor that it computes from its input")
        self.entries, self.outputs = self.builder.finished(outputs)
        if all(isinstance(entry.layer, (Flatten, Reshape)) for entry in self.entries):
            self.fail(f"{self.model} has no layer that computes anything")

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Raises the error for `node`."""
        Call.refuse_node(node, self.model, reason)

    def fail(self, reason: str) -> NoReturn:
        """Raises the error for the model as a whole."""
        raise CannotFuse(f"fuse: {reason}; {ELSEWHERE}")


@dataclass(frozen=True)
class Leaf:
    """The place of a tensor among the outputs of a network."""

    output: int
