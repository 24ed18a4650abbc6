"""Pools over windows, over whole images, and reductions that are such pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenet_ext.engine.capture.graph import image_shape
from lenet_ext.engine.capture.readers.core import flat, on_planes
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from lenet_ext.ops._arguments import Pair

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


def _windows(call: Call) -> tuple[Pair, Pair, Pair]:
    """Kernel size, stride and padding."""
    kernel_size = call.pair("kernel_size")
    stride = call.pair("stride") if call.arguments["stride"] else kernel_size
    return kernel_size, stride, call.pair("padding")


@reads("MaxPool2d without return_indices", "max_pool2d", "lenet_ext.max_pool2d")
def max_pool2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    ceil_mode = bool(call.arguments["ceil_mode"])
    layer = MaxPool2d(*_windows(call), call.pair("dilation"), ceil_mode)
    if call.operator == "aten.max_pool2d":
        reader.apply(call, layer)
        return
    # lenet_ext's gives positions too.
    maxima = call.output[0].shape[1:]
    reader.give_list(call, [reader.emit(layer, [reader.value(call, call.source)], maxima)])


@reads("MaxPool1d without return_indices", "max_pool1d")
def max_pool1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, C, L)")
    size, stride, padding = _windows(call)
    dilation, ceil_mode = call.pair("dilation"), bool(call.arguments["ceil_mode"])
    layer = MaxPool2d(flat(size, 1), flat(stride, 1), flat(padding, 0), flat(dilation, 1), ceil_mode)
    on_planes(reader, call, layer)


@reads("AvgPool2d", "avg_pool2d")
def avg_pool2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    divisor = call.arguments["divisor_override"]
    ceil_mode, with_pad = bool(call.arguments["ceil_mode"]), bool(call.arguments["count_include_pad"])
    number = 0 if divisor is None else call.known(divisor)
    reader.apply(call, AvgPool2d(*_windows(call), ceil_mode, with_pad, number))


@reads("AvgPool1d", "avg_pool1d")
def avg_pool1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, C, L)")
    size, stride, padding = _windows(call)
    ceil_mode, with_pad = bool(call.arguments["ceil_mode"]), bool(call.arguments["count_include_pad"])
    windows = flat(size, 1), flat(stride, 1), flat(padding, 0)
    on_planes(reader, call, AvgPool2d(*windows, ceil_mode, with_pad, 0))


@reads("AdaptiveAvgPool2d", "adaptive_avg_pool2d")
def adaptive_avg_pool2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    reader.apply(call, AdaptiveAvgPool2d(call.pair("output_size")))


@reads("AdaptiveAvgPool1d", "adaptive_avg_pool1d")
def adaptive_avg_pool1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, C, L)")
    on_planes(reader, call, AdaptiveAvgPool2d((1, call.integers("output_size")[-1])))


@reads("AdaptiveMaxPool2d without return_indices", "adaptive_max_pool2d")
def adaptive_max_pool2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    layer = AdaptiveMaxPool2d(call.pair("output_size"))
    maxima = call.node.meta["val"][0].shape[1:]
    reader.give_list(call, [reader.emit(layer, [reader.value(call, call.source)], maxima)])


@reads("AdaptiveMaxPool1d without return_indices", "adaptive_max_pool1d")
def adaptive_max_pool1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, C, L)")
    (size,) = call.integers("output_size")
    plane = reader.builder.plane(reader.value(call, call.source))
    channels = reader.shape(plane)[0]
    maxima = reader.emit(AdaptiveMaxPool2d((1, size)), [plane], (channels, 1, size))
    reader.give_list(call, [reader.reshaped(call, maxima, (channels, size))])


@reads("The mean over one or both of the last two dimensions of an image", "mean")
def mean(reader: Reader, call: Call) -> None:
    if call.arguments.get("dtype") not in (None, call.input.dtype):
        call.refuse(f"takes the mean in {call.arguments['dtype']}")
    pooled = _pooled(reader, call, AdaptiveAvgPool2d)
    reader.give(call, reader.reshaped(call, pooled, image_shape(call.node)))


@reads("The maximum over one or both of the last two dimensions, with the gradient of max_pool2d", "amax")
def amax(reader: Reader, call: Call) -> None:
    pooled = _pooled(reader, call, AdaptiveMaxPool2d)
    reader.give(call, reader.reshaped(call, pooled, image_shape(call.node)))


@reads("The maximum over one of the last two dimensions", "max")
def max_of_dim(reader: Reader, call: Call) -> None:
    if "dim" not in call.arguments:
        call.refuse("takes a maximum of all images, or of two values")
    pooled = _pooled(reader, call, AdaptiveMaxPool2d)
    reader.give_list(call, [reader.reshaped(call, pooled, call.node.meta["val"][0].shape[1:])])


def _pooled(reader: Reader, call: Call, layer: type[AdaptiveAvgPool2d] | type[AdaptiveMaxPool2d]) -> int:
    """The input as planes, of which the heights, the widths or both are reduced to one."""
    given = call.arguments.get("dim")
    if given is None or given == []:
        call.refuse("makes one number of all images")
    dims = {call.image_dim(dim) for dim in (given if isinstance(given, (list, tuple)) else [given])}
    value = reader.value(call, call.source)
    shape = reader.shape(value)
    rank = len(shape)
    if rank > 3 or (rank == 3 and 0 in dims):
        call.refuse("reduces other dimensions than the last two")
    # Rows are the planes of height 1 of their channels, unless these are reduced too.
    plane = (shape[0], 1, shape[1]) if rank == 2 and 0 not in dims else (*(1,) * (3 - rank), *shape)
    reduced = {2} if rank == 2 and 0 not in dims else {dim + 3 - rank for dim in dims}
    height, width = (1 if dim in reduced else call.known(plane[dim]) for dim in (1, 2))
    source = reader.reshaped(call, value, plane)
    return reader.emit(layer((height, width)), [source], (plane[0], height, width))
