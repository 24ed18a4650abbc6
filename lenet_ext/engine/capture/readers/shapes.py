"""What moves values, cuts them or leaves them as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenet_ext.engine.capture.errors import BATCH
from lenet_ext.engine.capture.graph import image_shape, same_sizes, shape_text
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import Pad, Permute, Slice

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


@reads(
    "Flatten, Unflatten, reshape of each image",
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as"),
)
def reshape(reader: Reader, call: Call) -> None:
    before, after = call.input, call.output
    if before.dtype != after.dtype:
        call.refuse(f"reads {before.dtype} as {after.dtype}")
    if after.dim() == 0 or not same_sizes(before.shape[:1], after.shape[:1]):
        call.refuse(f"turns {shape_text(before)} into {shape_text(after)}, which {BATCH}")
    value = reader.value(call, call.source)
    same = same_sizes(before.shape, after.shape)
    reader.give(call, reader.reshaped(call, value, image_shape(call.node)), view=True, same=same and _is_view(call))


def _is_view(call: Call) -> bool:
    """Whether the result surely shares its input's memory."""
    return call.operator in ("aten.view", "aten.view_as", "aten._unsafe_view")


@reads("Permutations", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")
def permute(reader: Reader, call: Call) -> None:
    rank = call.input.dim()
    order = list(range(rank))
    arguments = call.arguments
    if "dims" in arguments:
        order = [dim % rank for dim in call.integers("dims")]
    elif "source" in arguments:
        sources, places = ([dim % rank for dim in call.integers(n)] for n in ("source", "destination"))
        moved = dict(zip(places, sources, strict=True))
        left = iter(dim for dim in range(rank) if dim not in sources)
        order = [moved[place] if place in moved else next(left) for place in range(rank)]
    else:
        names = [name for name in ("dim0", "dim1", "axis0", "axis1") if name in arguments]
        first, second = (call.known(arguments[name]) % rank for name in names)
        order[first], order[second] = order[second], order[first]
    if order[0] != 0:
        call.refuse(f"moves the dimension of the batch, which {BATCH}")
    value = reader.value(call, call.source)
    layer = Permute(tuple(dim - 1 for dim in order[1:]))
    reader.give(call, reader.emit(layer, [value], image_shape(call.node)), view=True)


@reads("PixelShuffle", "pixel_shuffle")
def pixel_shuffle(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    (factor,) = call.integers("upscale_factor")
    (_, height, width), (channels, *_) = image_shape(call.source), image_shape(call.node)
    value = reader.value(call, call.source)
    apart = reader.reshaped(call, value, (channels, factor, factor, height, width))
    shape = (channels, height, factor, width, factor)
    mixed = reader.emit(Permute((0, 3, 1, 4, 2)), [apart], shape)
    reader.give(call, reader.reshaped(call, mixed, image_shape(call.node)))


@reads("PixelUnshuffle", "pixel_unshuffle")
def pixel_unshuffle(reader: Reader, call: Call) -> None:
    call.need_dims(4, "(N, C, H, W)")
    (factor,) = call.integers("downscale_factor")
    (channels, *_), (_, height, width) = image_shape(call.source), image_shape(call.node)
    value = reader.value(call, call.source)
    apart = reader.reshaped(call, value, (channels, height, factor, width, factor))
    shape = (channels, factor, factor, height, width)
    mixed = reader.emit(Permute((0, 2, 4, 1, 3)), [apart], shape)
    reader.give(call, reader.reshaped(call, mixed, image_shape(call.node)))


@reads("Padding with a constant", "pad", "constant_pad_nd")
def pad(reader: Reader, call: Call) -> None:
    mode = call.arguments.get("mode", "constant")
    if mode != "constant":
        call.refuse(f'pads in mode "{mode}": only padding with a constant can be fused')
    value = call.arguments["value"]
    edges = call.integers("pad")
    pairs = list(zip(edges[::2], edges[1::2], strict=True))
    rank = call.input.dim()
    pairs += [(0, 0)] * (rank - len(pairs))
    if any(pairs[rank - 1]):
        call.refuse(f"pads the batch, which {BATCH}")
    in_order = [size for pair in reversed(pairs[: rank - 1]) for size in pair]
    number = 0.0 if value is None else call.number("value")
    source, shape = reader.value(call, call.source), image_shape(call.node)
    if rank == 3 and in_order[:2] == [0, 0]:
        # On planes of one row, where a conv1d behind it can take it.
        plane = reader.builder.plane(source)
        layer = Pad((0, 0, 0, 0, *in_order[2:]), number)
        padded = reader.emit(layer, [plane], (shape[0], 1, shape[1]))
        reader.give(call, reader.reshaped(call, padded, shape))
    else:
        reader.give(call, reader.emit(Pad(tuple(in_order), number), [source], shape))


@reads("Slices and single indices of an image's dimensions", "slice", "narrow", "select")
def cut(reader: Reader, call: Call) -> None:
    source, shape = reader.value(call, call.source), image_shape(call.node)
    if call.operator == "aten.slice" and same_sizes(call.input.shape, call.output.shape):
        start, step = call.arguments["start"], call.known(call.arguments["step"])
        if step == 1 and start in (None, 0):
            reader.give(call, source, view=True, same=True)
            return
    dim = call.image_dim(call.arguments["dim"])
    size = call.known(call.input.shape[1 + dim])
    begin, end, step = 0, size, 1
    if call.operator == "aten.slice":
        begin, end, step = slice(*_bounds(call)).indices(size)
    elif call.operator == "aten.narrow":
        begin = call.known(call.arguments["start"]) % max(size, 1)
        end = begin + call.known(call.arguments["length"])
    else:
        begin = call.known(call.arguments["index"]) % size
        end = begin + 1
    reader.give(call, _slice(reader, call, source, dim, begin, end, step, shape), view=True)


def _bounds(call: Call) -> tuple[int | None, int | None, int]:
    bounds = (call.arguments["start"], call.arguments["end"])
    start, end = (None if bound is None else call.known(bound) for bound in bounds)
    return start, end, call.known(call.arguments["step"])


def _slice(
    reader: Reader, call: Call, source: int, dim: int, begin: int, end: int, step: int, shape: tuple[int, ...]
) -> int:
    """Elements of a dimension, in images of `shape`, which may be without it."""
    before = reader.shape(source)
    length = len(range(begin, end, step))
    if length == 0:
        call.refuse("leaves nothing of a dimension")
    if (begin, length) == (0, before[dim]):
        return reader.reshaped(call, source, shape)
    sizes = (*before[:dim], length, *before[dim + 1 :])
    part = reader.emit(Slice(dim, begin, end, step), [source], sizes)
    return reader.reshaped(call, part, shape)


@reads("chunk, split, unbind over an image's dimensions", "chunk", "split", "split_with_sizes", "unbind", "tensor_split")
def split(reader: Reader, call: Call) -> None:
    dim = call.image_dim(call.arguments["dim"])
    source, parts = reader.value(call, call.source), []
    begin = 0
    for part in call.node.meta["val"]:
        length = 1 if call.operator == "aten.unbind" else call.known(part.shape[1 + dim])
        shape = tuple(part.shape[1:])
        parts.append(_slice(reader, call, source, dim, begin, begin + length, 1, shape))
        begin += length
    reader.give_list(call, parts, view=True)


@reads("Copies in the same dtype on the same device", "to", "_to_copy", "clone", "contiguous", "alias", "type_as")
def copy(reader: Reader, call: Call) -> None:
    before, after = call.input, call.output
    if (before.dtype, before.device) != (after.dtype, after.device):
        call.refuse(f"takes {before.dtype} on {before.device} to {after.dtype} on {after.device}")
    is_copy = call.operator in ("aten.clone", "aten._to_copy")
    reader.give(call, reader.value(call, call.source), view=not is_copy, same=call.operator == "aten.alias")
