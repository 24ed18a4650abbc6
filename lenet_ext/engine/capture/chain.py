"""Reads the graph of a network as a chain of layers.

The nodes are read in order. At every point one value is the chain's *current* one. Each node takes it and
gives the next one, as a layer or as something that changes nothing (dropout in eval mode, a cast to the same
dtype). Whatever else touches a value of the chain is refused, since a fused network computes exactly what the
model does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from torch.export import ExportedProgram
from torch.fx import Node

from lenet_ext.engine.capture.errors import ELSEWHERE, HINTS, UNKNOWN, CannotFuse, layer_name
from lenet_ext.engine.capture.graph import caller, is_number, operator_name, same_sizes, shape_text, tensor
from lenet_ext.engine.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from lenet_ext.engine.program import Core, decode
from lenet_ext.ops._arguments import Padding, Pair

EDGES = ("pad_top", "pad_bottom", "pad_left", "pad_right")


class Chain:
    """Reads `program` into `layers`.

    parameters: the names to give to the graph's parameters, by placeholder. model: what to call the model.
    """

    def __init__(self, program: ExportedProgram, parameters: dict[str, str], model: str) -> None:
        self.layers: list[Layer] = []
        self.program, self.parameters, self.model = program, parameters, model
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
        elif name in _READERS:
            _READERS[name](self, node)
        else:
            self.refuse(node, HINTS.get(name, UNKNOWN))

    def advance(self, *nodes: Node, layer: Layer | None = None) -> None:
        """Makes `nodes` hold the current value, which is that of `layer`, or the same as before."""
        self.current = set(nodes)
        self.past.update(nodes)
        if layer is not None:
            self.layers.append(layer)

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
        if not self.layers:
            self.fail(f"{self.model} has no layer to fuse")

    def parameter(self, node: Node, argument: str, value: Node) -> str:
        """The name of the parameter that `value`, the weight or bias of `node`, is."""
        if value.name not in self.parameters:
            computed = value.op == "call_function"
            what = f"computed ({operator_name(value)})" if computed else "a buffer or constant"
            self.refuse(node, f"has a {argument} that is {what} instead of a Parameter")
        return self.parameters[value.name]

    def need_dims(self, node: Node, value: Node, dim: int, shape: str) -> None:
        """Refuses `node` where its input does not have `dim` dimensions."""
        if tensor(value).dim() != dim:
            self.refuse(node, f"gets an input of {tensor(value).dim()} dimensions instead of {shape}")

    def pair(self, node: Node, value: Any) -> Pair:
        """An int or a list of one or two as (height, width)."""
        numbers = self.integers(node, value)
        return numbers[0], numbers[-1]

    def integers(self, node: Node, value: Any) -> list[int]:
        """An int or a list of them as a list."""
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        if not all(type(number) is int for number in numbers):
            self.refuse(node, f"has an argument that depends on its input: {value}")
        return numbers

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Raises the error for `node`."""
        where = layer_name(caller(node), f"{self.model}.forward")
        self.fail(f"{where} ({operator_name(node)}) {reason}")

    def fail(self, reason: str) -> NoReturn:
        """Raises the error for the model as a whole."""
        raise CannotFuse(f"fuse: {reason}; {ELSEWHERE}")


def _arguments(chain: Chain, node: Node) -> dict[str, Any]:
    """All arguments of `node` by name, defaults included; its "input" must be the chain's value."""
    normalized = node.normalized_arguments(chain.program.graph_module, normalize_to_only_use_kwargs=True)
    if normalized is None or normalized.kwargs.get("input") not in chain.current:
        chain.refuse(node, UNKNOWN)
    return {**normalized.kwargs, **_lists(normalized.kwargs)}


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


def _conv2d(chain: Chain, node: Node) -> None:
    arguments = _arguments(chain, node)
    chain.need_dims(node, arguments["input"], 4, "(N, in_channels, H, W)")
    weight, bias = _weight_and_bias(chain, node, arguments, 4)
    dilation = chain.pair(node, arguments["dilation"])
    padding = _edges(chain, node, arguments, dilation)
    stride, (groups,) = chain.pair(node, arguments["stride"]), chain.integers(node, arguments["groups"])
    chain.advance(node, layer=Conv2d(weight, bias, stride, padding, dilation, groups))


def _edges(chain: Chain, node: Node, arguments: dict[str, Any], dilation: Pair) -> Padding:
    """(top, bottom, left, right) from "same", "valid", two ints (torch) or four ints (lenet_ext)."""
    padding = arguments["padding"]
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        sizes = tensor(arguments["weight"]).shape[2:]
        vertical, horizontal = (step * (size - 1) for step, size in zip(dilation, sizes, strict=True))
        return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
    edges = chain.integers(node, padding)
    if len(edges) == 4:
        return edges[0], edges[1], edges[2], edges[3]
    return edges[0], edges[0], edges[-1], edges[-1]


def _linear(chain: Chain, node: Node) -> None:
    arguments = _arguments(chain, node)
    chain.need_dims(node, arguments["input"], 2, "(N, in_features): flatten it first")
    weight, bias = _weight_and_bias(chain, node, arguments, 2)
    chain.advance(node, layer=Linear(weight, bias))


def _weight_and_bias(chain: Chain, node: Node, arguments: dict[str, Any], dim: int) -> tuple[str, str | None]:
    weight, bias = arguments["weight"], arguments["bias"]
    name = chain.parameter(node, "weight", weight)
    shape, dtype = tensor(weight).shape, tensor(weight).dtype
    if len(shape) != dim or dtype != tensor(arguments["input"]).dtype:
        wanted = f"{dim} dimensions in {tensor(arguments['input']).dtype}"
        chain.refuse(node, f"has a weight of shape {tuple(shape)} in {dtype}, which must have {wanted}")
    if bias is None:
        return name, None
    if tensor(bias).shape != shape[:1] or tensor(bias).dtype != dtype:
        got = f"{tuple(tensor(bias).shape)} in {tensor(bias).dtype}"
        chain.refuse(node, f"has a bias of shape {got}, which must have {tuple(shape[:1])} in {dtype}")
    return name, chain.parameter(node, "bias", bias)


def _relu(chain: Chain, node: Node) -> None:
    results = _results(chain, node)
    if len(results) > 1 and all(isinstance(layer, Flatten) for layer in chain.layers):
        chain.refuse(node, "overwrites the network's input")
    chain.advance(*results, layer=ReLU())


def _results(chain: Chain, node: Node) -> tuple[Node, ...]:
    """The nodes that hold what `node` computes: its input as well where it works in place."""
    input = _arguments(chain, node)["input"]
    return (node, input) if operator_name(node).endswith("_") else (node,)


def _max_pool2d(chain: Chain, node: Node) -> None:
    arguments = _arguments(chain, node)
    chain.need_dims(node, arguments["input"], 4, "(N, C, H, W)")
    kernel_size = chain.pair(node, arguments["kernel_size"])
    stride = chain.pair(node, arguments["stride"] or kernel_size)
    padding, dilation = chain.pair(node, arguments["padding"]), chain.pair(node, arguments["dilation"])
    chain.advance(node, layer=MaxPool2d(kernel_size, stride, padding, dilation, arguments["ceil_mode"]))


def _getitem(chain: Chain, node: Node) -> None:
    """lenet_ext's max_pool2d gives maxima and positions, its net_forward what backward needs as well."""
    if node.args[1] == 0:
        chain.advance(*chain.current, node)
    elif node.users:
        chain.refuse(node, "takes the positions of a max_pool2d (return_indices=True)")


def _net(chain: Chain, node: Node) -> None:
    """The stages of a fused block, or of a whole fused network."""
    arguments = _arguments(chain, node)
    if arguments["normalization"] is not None:
        chain.refuse(node, UNKNOWN)
    parameters = iter(arguments["parameters"])
    for stage in decode(chain.integers(node, arguments["program"])):
        if stage.core != Core.NONE:
            own = {"weight": next(parameters), "bias": next(parameters) if stage.bias else None}
            conv2d = stage.core == Core.CONV2D
            weight, bias = _weight_and_bias(chain, node, {**arguments, **own}, 4 if conv2d else 2)
        if stage.geometry is not None:
            stride_h, stride_w, *edges, dilation_h, dilation_w, groups = stage.geometry
            top, bottom, left, right = edges
            padding, dilation = (top, bottom, left, right), (dilation_h, dilation_w)
            chain.layers.append(Conv2d(weight, bias, (stride_h, stride_w), padding, dilation, groups))
        elif stage.core == Core.LINEAR:
            chain.layers += [Flatten(), Linear(weight, bias)]
        if stage.relu:
            chain.layers.append(ReLU())
        if stage.pool is not None:
            size, stride, pads, steps = ((stage.pool[i], stage.pool[i + 1]) for i in range(0, 8, 2))
            chain.layers.append(MaxPool2d(size, stride, pads, steps, bool(stage.pool[8])))
        if stage.flattened:
            chain.layers.append(Flatten())
    chain.advance(node)


def _reshape(chain: Chain, node: Node) -> None:
    before, after = tensor(_arguments(chain, node)["input"]), tensor(node)
    if same_sizes(before.shape, after.shape):
        chain.advance(node)
    elif after.dim() == 2 and same_sizes(before.shape[:1], after.shape[:1]):
        chain.advance(node, layer=Flatten())
    else:
        shapes = f"{shape_text(before)} into {shape_text(after)}"
        chain.refuse(node, f"turns {shapes}: only flattening all dimensions but the batch can be fused")


def _dropout(chain: Chain, node: Node) -> None:
    arguments = _arguments(chain, node)
    if arguments["train"] and arguments["p"] != 0:
        chain.refuse(node, "is random in training mode: call model.eval() first, or set p=0")
    chain.advance(*_results(chain, node))


def _copy(chain: Chain, node: Node) -> None:
    before, after = tensor(_arguments(chain, node)["input"]), tensor(node)
    if (before.dtype, before.device) != (after.dtype, after.device):
        chain.refuse(node, f"takes {before.dtype} on {before.device} to {after.dtype} on {after.device}")
    chain.advance(node)


Reader: TypeAlias = Callable[[Chain, Node], None]
_READERS: dict[str, Reader] = {
    **dict.fromkeys(("aten.conv2d", "lenet_ext.conv2d"), _conv2d),
    **dict.fromkeys(("aten.linear", "lenet_ext.linear"), _linear),
    **dict.fromkeys(("aten.max_pool2d", "lenet_ext.max_pool2d"), _max_pool2d),
    **dict.fromkeys(("aten.relu", "aten.relu_", "lenet_ext.relu", "lenet_ext.relu_"), _relu),
    **dict.fromkeys(("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten"), _reshape),
    **dict.fromkeys(("aten.to", "aten._to_copy", "aten.clone", "aten.contiguous", "aten.alias"), _copy),
    **{
        f"aten.{kind}{place}": _dropout
        for kind in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for place in ("", "_")
    },
    **dict.fromkeys(("lenet_ext.net", "lenet_ext.net_forward"), _net),
    "getitem": _getitem,
}
