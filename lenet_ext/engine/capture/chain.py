"""Reads the graph of a network as a chain of layers.

The nodes are read in order. At every point one value is the chain's *current* one. Each node takes it and
gives the next one, as a layer or as something that changes nothing (dropout in eval mode, a cast to the same
dtype). Whatever else touches a value of the chain is refused, since a fused network computes exactly what the
model does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeAlias

from torch.export import ExportedProgram
from torch.fx import Node

from lenet_ext.engine.capture.call import Call
from lenet_ext.engine.capture.errors import ELSEWHERE, HINTS, UNKNOWN, CannotFuse
from lenet_ext.engine.capture.graph import is_number, operator_name, same_sizes, shape_text
from lenet_ext.engine.layers import Flatten, Layer, readers
from lenet_ext.engine.network import Network


class Entry(NamedTuple):
    """A layer, the names of its parameters, and the path of the module that it belongs to."""

    layer: Layer
    parameters: tuple[str, ...]
    where: str


class Chain:
    """Reads `program` into `entries`.

    names: to give to the graph's parameters, by placeholder. model: what to call the model.
    """

    def __init__(self, program: ExportedProgram, names: dict[str, str], model: str) -> None:
        self.entries: list[Entry] = []
        # The paths of the modules that were read in eval mode and are random in training mode.
        self.eval_only: list[str] = []
        self.program, self.names, self.model = program, names, model
        # Several nodes hold the current value after an in-place operator: its input and its result.
        self.current: set[Node] = set()
        self.past: set[Node] = set()
        self.mutation: Node | None = None
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
                self.advance(node)
            elif node.op == "call_function":
                self.read(node)
            elif node.op == "output":
                self.finish(node.args[0])

    def read(self, node: Node) -> None:
        """Takes one operator into the chain."""
        name = operator_name(node)
        if is_number(node) or name == "aten._assert_tensor_metadata":
            return
        inputs = self.past.intersection(node.all_input_nodes)
        if not inputs:
            # Made of parameters or constants alone: refused where it is used, or where it changes the model.
            if name.endswith("_"):
                self.mutation = self.mutation or node
        elif not inputs <= self.current:
            self.refuse(node, "uses a value for the second time: a branch or a residual connection")
        elif name == "getitem":
            self.take_item(node)
        elif name in _LAYERS or name in _READERS:
            call = self.call(node)
            if call.arguments["input"] not in self.current:
                call.refuse(UNKNOWN)
            if name in _LAYERS:
                self.add(call, _LAYERS[name].read(call))
            else:
                _READERS[name](self, call)
        else:
            self.refuse(node, HINTS.get(name, UNKNOWN))

    def call(self, node: Node) -> Call:
        is_first = all(isinstance(entry.layer, Flatten) for entry in self.entries)
        return Call(node, self.program, self.names, self.model, is_first)

    def add(self, call: Call, layer: Layer) -> None:
        """Makes `layer`, which `call` is, give the current value."""
        self.entries.append(Entry(layer, tuple(call.parameters), call.where))
        self.pass_on(call)

    def pass_on(self, call: Call) -> None:
        """Makes the result of `call` the current value; after an in-place operator its input holds it too."""
        self.advance(*((call.node, call.arguments["input"]) if call.is_in_place else (call.node,)))

    def advance(self, *nodes: Node) -> None:
        """Makes `nodes` hold the current value."""
        self.current = set(nodes)
        self.past.update(nodes)

    def take_item(self, node: Node) -> None:
        """lenet_ext's max_pool2d gives maxima and positions, network_forward what backward needs as well."""
        if node.args[1] == 0:
            self.advance(*self.current, node)
        elif node.users:
            self.refuse(node, "takes the positions of a max_pool2d (return_indices=True)")

    def finish(self, outputs: Any) -> None:
        """Checks that the model returns the chain's last value and that alone."""
        spec = self.program.call_spec.out_spec
        if spec is None or not spec.is_leaf():
            self.fail(f"{self.model} must return one tensor, it returns a collection of {len(outputs)}")
        (output,) = outputs
        if not isinstance(output, Node) or is_number(output):
            self.fail(f"{self.model} must return a tensor, it returns {output}")
        if output not in self.current:
            self.fail(f"{self.model} does not return the last value that it computes from its input")
        if self.mutation is not None:
            self.refuse(self.mutation, "changes a buffer or a parameter in place")
        if not self.entries:
            self.fail(f"{self.model} has no layer to fuse")

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Raises the error for `node`."""
        Call.refuse_node(node, self.model, reason)

    def fail(self, reason: str) -> NoReturn:
        """Raises the error for the model as a whole."""
        raise CannotFuse(f"fuse: {reason}; {ELSEWHERE}")


def _network(chain: Chain, call: Call) -> None:
    """A fused block, or a whole fused network."""
    if call.arguments["normalization"] is not None:
        call.refuse(UNKNOWN)
    parameters = call.arguments["parameters"]
    for layer, _, own, label in Network.of(call.arguments["program"]).nodes:
        names = [call.name_of("parameter", parameters[i]) for i in own]
        where = ".".join(filter(None, (call.where, label)))
        chain.entries.append(Entry(layer, tuple(names), where))
    chain.advance(call.node)


def _reshape(chain: Chain, call: Call) -> None:
    before, after = call.input, call.output
    if same_sizes(before.shape, after.shape):
        chain.pass_on(call)
    elif after.dim() == 2 and same_sizes(before.shape[:1], after.shape[:1]):
        chain.add(call, Flatten())
    else:
        shapes = f"{shape_text(before)} into {shape_text(after)}"
        call.refuse(f"turns {shapes}: only flattening all dimensions but the batch can be fused")


def _dropout(chain: Chain, call: Call) -> None:
    if call.arguments["p"] != 0:
        if call.arguments["train"]:
            call.refuse("is random in training mode: call model.eval() first, or set p=0")
        chain.eval_only.append(call.where)
    chain.pass_on(call)


def _copy(chain: Chain, call: Call) -> None:
    before, after = call.input, call.output
    if (before.dtype, before.device) != (after.dtype, after.device):
        call.refuse(f"takes {before.dtype} on {before.device} to {after.dtype} on {after.device}")
    chain.pass_on(call)


Reader: TypeAlias = Callable[[Chain, Call], None]
_LAYERS: dict[str, type[Layer]] = dict(readers())
_READERS: dict[str, Reader] = {
    **dict.fromkeys(("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten"), _reshape),
    **dict.fromkeys(("aten.to", "aten._to_copy", "aten.clone", "aten.contiguous", "aten.alias"), _copy),
    **{
        f"aten.{kind}{place}": _dropout
        for kind in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for place in ("", "_")
    },
    **dict.fromkeys(("lenet_ext.network", "lenet_ext.network_forward"), _network),
}
