"""Sums, products and concatenations of values, or of a value and a number or a parameter; softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from lenet_ext.engine.capture.errors import BATCH
from lenet_ext.engine.capture.graph import image_shape, same_sizes, shape_text, tensor
from lenet_ext.engine.capture.readers.activations import scaled
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import Add, Concat, Gain, Layer, LogSoftmax, Mul, Shift, Softmax, scale

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


@reads("x + y of the same sizes, x + number, x + parameter", "add(_)")
def add(reader: Reader, call: Call) -> None:
    _sum(reader, call, call.number("alpha"))


@reads("x - y of the same sizes, x - number, x - parameter", "sub(_)")
def sub(reader: Reader, call: Call) -> None:
    _sum(reader, call, -call.number("alpha"))


def _sum(reader: Reader, call: Call, alpha: float) -> None:
    if isinstance(call.arguments["other"], Node):
        _two(reader, call, Add(alpha), Shift(alpha))
    else:
        scaled(reader, call, 1.0, alpha * call.number("other"))


@reads("x * y of the same sizes, x * number, x * parameter", "mul(_)")
def mul(reader: Reader, call: Call) -> None:
    if isinstance(call.arguments["other"], Node):
        _two(reader, call, Mul(), Gain())
    else:
        scaled(reader, call, call.number("other"), 0.0)


@reads("x ** 2", "pow", "square")
def square(reader: Reader, call: Call) -> None:
    if call.arguments.get("exponent", 2) != 2:
        call.refuse(f"has the exponent {call.arguments['exponent']}: only 2 can be fused")
    value = reader.value(call, call.source)
    reader.give(call, reader.emit(Mul(), [value, value], image_shape(call.node)))


def _two(reader: Reader, call: Call, layer: Layer, with_parameter: Shift | Gain) -> None:
    """layer: of two values. with_parameter: of a value and a parameter, the second of the two."""
    nodes = call.source, call.arguments["other"]
    for place, node in enumerate(nodes):
        if call.is_parameter(node):
            _with_parameter(reader, call, nodes[1 - place], node, with_parameter)
            return
    values = [reader.value(call, node) for node in nodes]
    first, second = (tensor(node) for node in nodes)
    if not same_sizes(first.shape, second.shape):
        shapes = f"{shape_text(first)} and {shape_text(second)}"
        call.refuse(f"combines {shapes}: both must be of the same sizes")
    if first.dtype != second.dtype:
        call.refuse(f"combines {first.dtype} and {second.dtype}")
    reader.give(call, reader.emit(layer, values, image_shape(call.node)))


def _with_parameter(reader: Reader, call: Call, source: Node, own: Node, layer: Shift | Gain) -> None:
    value = reader.value(call, source)
    images, parameter = tensor(source), tensor(own)
    if call.is_in_place and source is not call.source:
        call.refuse("changes a parameter in place")
    if images.dtype != parameter.dtype:
        call.refuse(f"combines {images.dtype} and {parameter.dtype}")
    shapes = f"{shape_text(images)} and a parameter of {shape_text(parameter)}"
    if not same_sizes(images.shape, call.output.shape) or not _fits(images.shape, parameter.shape):
        call.refuse(f"combines {shapes}, which must fit each image, with ones before and behind its sizes")
    shape = image_shape(call.node)
    if isinstance(layer, Shift) and source is not call.source:
        # parameter + alpha * x
        value, layer = reader.emit(scale(layer.alpha, 0.0), [value], shape), Shift(1.0)
    reader.give(call, reader.emit(layer, [value], shape, [call.name_of_node("operand", own)]))


def _fits(images: Sequence[Any], parameter: Sequence[Any]) -> bool:
    """Whether the parameter is the same for all images, and lies along dimensions that are neighbours."""
    missing = len(images) - len(parameter)
    sizes = (*(1,) * missing, *parameter)
    if missing < 0 or sizes[0] != 1:
        return False
    along = [
        size != 1
        for image, size in zip(images[1:], sizes[1:], strict=True)
        if not (type(image) is int and image == 1)
    ]
    if True not in along:
        return True
    first, last = along.index(True), len(along) - along[::-1].index(True)
    return all(along[first:last])


@reads("Concatenation", "cat", "concat", "concatenate")
def cat(reader: Reader, call: Call) -> None:
    nodes = call.arguments["tensors"]
    values = [reader.value(call, node) for node in nodes]
    if any(tensor(node).dtype != call.output.dtype for node in nodes):
        call.refuse("concatenates several dtypes")
    # An empty vector may be in between, as torch once allowed.
    if any(tensor(node).dim() != call.output.dim() for node in nodes):
        call.refuse("concatenates tensors of several dimensions")
    dim = call.image_dim(call.arguments["dim"], call.output)
    result = values[0]
    if len(values) > 1:
        result = reader.emit(Concat(dim), values, image_shape(call.node))
    reader.held[call.node] = reader.new(result, None, False)


@reads("Softmax, LogSoftmax, Softmin", "softmax", "log_softmax")
def softmax(reader: Reader, call: Call) -> None:
    if call.arguments.get("dtype") not in (None, call.input.dtype):
        call.refuse(f"computes in {call.arguments['dtype']}")
    dims = call.input.dim()
    dim = call.known(call.arguments["dim"])
    if dims < 2 or dim in (0, -dims):
        call.refuse(BATCH)
    layer = LogSoftmax if call.operator == "aten.log_softmax" else Softmax
    reader.apply(call, layer(call.image_dim(dim)))
