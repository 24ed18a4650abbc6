"""Convolutions and linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lenet_ext.engine.capture.graph import image_shape, tensor
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import Conv2d, ConvTranspose2d, Layer, Linear
from lenet_ext.ops._arguments import Padding, Pair

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


def weight_and_bias(call: Call, dim: int, channels: int = 0) -> tuple[Tensor, list[str]]:
    """A tensor like the weight, of `dim` dimensions, and the names of the parameters.

    channels: how many the bias must have; 0: as many as the weight has rows.
    """
    names = [call.name_of("weight")]
    weight, bias = tensor(call.arguments["weight"]), call.arguments["bias"]
    if weight.dim() != dim or weight.dtype != call.input.dtype:
        wanted = f"{dim} dimensions in {call.input.dtype}"
        got = f"{tuple(weight.shape)} in {weight.dtype}"
        call.refuse(f"has a weight of shape {got}, which must have {wanted}")
    if bias is not None:
        of_bias, shape = tensor(bias), (channels or weight.shape[0],)
        if tuple(of_bias.shape) != shape or of_bias.dtype != weight.dtype:
            got = f"{tuple(of_bias.shape)} in {of_bias.dtype}"
            call.refuse(f"has a bias of shape {got}, which must have {shape} in {weight.dtype}")
        names.append(call.name_of("bias"))
    return weight, names


@reads("Conv2d with padding of zeros", "conv2d", "lenet_ext.conv2d")
def conv2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, in_channels, H, W)")
    weight, names = weight_and_bias(call, 4)
    dilation = call.pair("dilation")
    (groups,) = call.integers("groups")
    reader.apply(call, Conv2d(call.pair("stride"), _edges(call, weight, dilation), dilation, groups), names)


@reads("Conv1d with padding of zeros", "conv1d")
def conv1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, in_channels, L)")
    weight, names = weight_and_bias(call, 3)
    dilation = (1, call.integers("dilation")[-1])
    (groups,) = call.integers("groups")
    edges = (0, 0, *_edges(call, weight, dilation)[2:])
    on_planes(reader, call, Conv2d((1, call.integers("stride")[-1]), edges, dilation, groups), names)


@reads("ConvTranspose2d", "conv_transpose2d")
def conv_transpose2d(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, in_channels, H, W)")
    (groups,) = call.integers("groups")
    _, names = weight_and_bias(call, 4, call.output.shape[1])
    pairs = (call.pair(name) for name in ("stride", "padding", "output_padding", "dilation"))
    reader.apply(call, ConvTranspose2d(*pairs, groups), names)


@reads("ConvTranspose1d", "conv_transpose1d")
def conv_transpose1d(reader: Reader, call: Call) -> None:
    call.need_dims(3, "(N, in_channels, L)")
    (groups,) = call.integers("groups")
    _, names = weight_and_bias(call, 3, call.output.shape[1])
    names_of_pairs = (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    pairs = ((first, call.integers(name)[-1]) for name, first in names_of_pairs)
    on_planes(reader, call, ConvTranspose2d(*pairs, groups), names)


@reads("Linear, over the last dimension", "linear", "lenet_ext.linear")
def linear(reader: Reader, call: Call) -> None:
    if call.input.dim() < 2:
        call.refuse("gets an input without a batch dimension instead of (N, ..., in_features)")
    _, names = weight_and_bias(call, 2)
    reader.apply(call, Linear(), names)


def on_planes(reader: Reader, call: Call, layer: Layer, names: list[str] | None = None) -> None:
    """Reads a layer of rows, (C, L), as one of planes of height 1."""
    channels, length = image_shape(call.node)
    plane = reader.builder.plane(reader.value(call, call.source))
    result = reader.emit(layer, [plane], (channels, 1, length), names or [])
    reader.give(call, reader.reshaped(call, result, (channels, length)))


def _edges(call: Call, weight: Tensor, dilation: Pair) -> Padding:
    """(top, bottom, left, right) from "same", "valid", one or two ints (torch) or four ints (lenet_ext)."""
    padding = call.arguments["padding"]
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        kernel = weight.shape[2:] if weight.dim() == 4 else (1, *weight.shape[2:])
        sizes = zip(dilation, kernel, strict=True)
        vertical, horizontal = (step * (size - 1) for step, size in sizes)
        return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
    edges = call.integers("padding")
    if len(edges) == 4:
        return edges[0], edges[1], edges[2], edges[3]
    return edges[0], edges[0], edges[-1], edges[-1]
