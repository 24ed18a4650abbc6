"""Builder: collects the layers of a network, made simpler where that changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lenet_ext.engine.capture.graph import same_sizes
from lenet_ext.engine.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Add,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    MaxPool2d,
    Pad,
    Permute,
    Reshape,
    scale,
)

Sizes = Sequence[Any]  # ints, or SymInts where they are not known


class Entry(NamedTuple):
    """A layer, the values that it reads, the names of its parameters, the module that it belongs to.

    counter: the name of the number of batches that a batch norm counts.
    """

    layer: Layer
    values: tuple[int, ...]
    parameters: tuple[str, ...]
    where: str
    counter: str | None = None


class Builder:
    """Value 0 is the network's input, value i the result of entry i - 1."""

    def __init__(self, shape: Sizes) -> None:
        self.entries: list[Entry] = []
        self.shapes: list[tuple[Any, ...]] = [tuple(shape)]  # of images, of each value
        self.where = ""  # of the next entries

    def source(self, value: int) -> Entry | None:
        """The entry that gives `value`; None for the input."""
        return self.entries[value - 1] if value > 0 else None

    def emit(
        self,
        layer: Layer,
        values: Iterable[int],
        shape: Sizes,
        parameters: Iterable[str] = (),
        counter: str | None = None,
    ) -> int:
        """The value that `layer` makes of `values`, with images of this shape."""
        values, shape = tuple(values), tuple(shape)
        first = values[0]
        if _is_identity(layer, self.shapes[first], shape):
            return first
        source = self.source(first)
        if layer.is_pointwise and self._is_row(first):
            assert source is not None
            plane = source.values[0]
            result = self.emit(layer, (plane,), self.shapes[plane], parameters, counter)
            row = self.reshape(result, shape)
            assert row is not None
            return row
        if isinstance(layer, Activation) and layer.kind == "scale" and source is not None:
            if isinstance(source.layer, Activation) and source.layer.kind == "scale":
                (factor, shift), (before, begin) = layer.arguments, source.layer.arguments
                merged = scale(factor * before, factor * begin + shift)
                return self.emit(merged, source.values, shape)
        if isinstance(layer, Permute) and source is not None and isinstance(source.layer, Permute):
            merged_dims = tuple(source.layer.dims[dim] for dim in layer.dims)
            return self.emit(Permute(merged_dims), source.values, shape)
        if isinstance(layer, Conv2d) and source is not None and isinstance(source.layer, Pad):
            edges = _spatial_edges(source.layer)
            if edges is not None:
                padding = tuple(a + b for a, b in zip(layer.padding, edges, strict=True))
                layer = replace(layer, padding=padding)  # type: ignore[arg-type]
                return self.emit(layer, source.values, shape, parameters)
        if isinstance(layer, Add) and values[0] == values[1]:
            return self.emit(scale(1 + layer.alpha, 0.0), values[:1], shape)
        self.entries.append(Entry(layer, values, tuple(parameters), self.where, counter))
        self.shapes.append(shape)
        return len(self.entries)

    def reshape(self, value: int, shape: Sizes) -> int | None:
        """`value` with images of another shape of as many elements; None if that cannot be told."""
        shape = tuple(shape)
        source = self.source(value)
        while source is not None and isinstance(source.layer, (Flatten, Reshape)):
            value = source.values[0]
            source = self.source(value)
        if same_sizes(self.shapes[value], shape):
            return value
        if len(shape) == 1:
            return self.emit(Flatten(), (value,), shape)
        sizes = tuple(size if type(size) is int else -1 for size in shape)
        if sizes.count(-1) > 1 or (-1 in sizes and 0 in sizes):
            return None
        return self.emit(Reshape(sizes), (value,), shape)

    def plane(self, value: int) -> int:
        """A value of images (C, L) as one of images (C, 1, L)."""
        channels, length = self.shapes[value]
        result = self.reshape(value, (channels, 1, length))
        assert result is not None
        return result

    def finished(self, outputs: Sequence[int]) -> tuple[list[Entry], list[int]]:
        """The entries that `outputs` depend on, and the numbers of these among their values."""
        live = set(outputs)
        for number in range(len(self.entries), 0, -1):
            if number in live:
                live.update(self.entries[number - 1].values)
        numbers = {0: 0}
        entries = []
        for number, entry in enumerate(self.entries, 1):
            if number in live:
                entries.append(entry._replace(values=tuple(numbers[v] for v in entry.values)))
                numbers[number] = len(entries)
        return entries, [numbers[value] for value in outputs]

    def _is_row(self, value: int) -> bool:
        """Whether it is (C, L) made of a plane (C, 1, L), as 1-d layers leave it."""
        source = self.source(value)
        if source is None or not isinstance(source.layer, Reshape) or len(self.shapes[value]) != 2:
            return False
        before = self.shapes[source.values[0]]
        channels, length = self.shapes[value]
        return same_sizes(before, (channels, 1, length))


def _is_identity(layer: Layer, before: Sizes, after: Sizes) -> bool:
    ones = (1, 1)
    if isinstance(layer, (MaxPool2d, AvgPool2d)):
        divides = isinstance(layer, AvgPool2d) and layer.divisor not in (0, 1)
        return layer.kernel_size == layer.stride == ones and layer.padding == (0, 0) and not divides
    if isinstance(layer, (AdaptiveAvgPool2d, AdaptiveMaxPool2d)):
        return same_sizes(before, after)
    if isinstance(layer, Dropout):
        return layer.p == 0
    if isinstance(layer, Permute):
        return layer.dims == tuple(range(len(layer.dims)))
    if isinstance(layer, Pad):
        return not any(layer.edges)
    return isinstance(layer, Activation) and layer == scale(1.0, 0.0)


def _spatial_edges(pad: Pad) -> tuple[int, ...] | None:
    """(top, bottom, left, right) of padding that a conv2d can do; None if it is some other."""
    channels, edges = pad.edges[:2], pad.edges[2:]
    fits = len(edges) == 4 and not any(channels) and min(edges) >= 0 and pad.value == 0
    return edges if fits else None


def counters(entries: Sequence[Entry]) -> tuple[str | None, ...]:
    """The counters of the batch norms that change their running statistics, in order."""
    return tuple(e.counter for e in entries if isinstance(e.layer, BatchNorm) and e.layer.updates)
