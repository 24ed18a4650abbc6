"""Networks that are graphs of layers of all kinds, drawn by hypothesis, and what native torch computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from lenet_ext.engine import layers
from lenet_ext.engine.layers import ACTIVATIONS, Activation, Layer
from lenet_ext.engine.network import Network, Node

Shape = tuple[int, ...]

# More than 32 images take several tiles.
BATCHES = [1, 2, 3, 5, 7, 9, 33, 41]
# Linear layers with more weights take the whole batch at once.
WIDE_WEIGHTS = 512 * 1024
MOST_ELEMENTS = 600  # of a value, apart from those beside wide layers
SHAPES: list[Shape] = [(2, 5, 6), (3, 4, 4), (1, 7, 3), (6, 2, 5), (4, 1, 9), (3, 8), (17,), (6,)]
REALS = {
    "leaky_relu": (0.2,),
    "elu": (1.3, 0.8, 0.7),
    "hardtanh": (-0.6, 0.7),
    "softplus": (2.0, 1.5),
    "scale": (-0.7, 0.2),
}
IMAGE_KINDS = [
    *("conv2d", "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    "adaptive_max_pool2d",
]
KINDS = [
    *("linear", "batch_norm", "batch_norm", "dropout", "activation", "activation", "prelu", "softmax"),
    *("log_softmax", "flatten", "reshape", "permute", "pad", "slice", "add", "add", "mul", "concat"),
]


@dataclass
class Graph:
    """A network for images of `shape`; its parameters and buffers are those of `tensors`.

    norms: of each batch norm that changes running statistics the number of its count among `counts`.
    """

    batch: int
    shape: Shape
    seed: int
    nodes: list[Node] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)  # of images, of all values
    parameters: list[Shape] = field(default_factory=list)
    variances: set[int] = field(default_factory=set)
    norms: list[int] = field(default_factory=list)
    counts: int = 0
    outputs: tuple[int, ...] = ()

    @property
    def network(self) -> Network:
        return Network("FusedNet", tuple(self.nodes), self.outputs)

    def root(self, value: int) -> int:
        """The value whose memory it shares."""
        while value > 0 and isinstance(self.nodes[value - 1].layer, (layers.Flatten, layers.Reshape)):
            value = self.nodes[value - 1].values[0]
        return value

    def add(self, layer: Layer, values: Sequence[int], shape: Shape, parameters: Sequence[int] = ()) -> int:
        self.nodes.append(Node(layer, tuple(values), tuple(parameters)))
        self.shapes.append(shape)
        return len(self.nodes)

    def images(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(batch, *self.shape, generator=generator, dtype=torch.float64)

    def tensors(self) -> list[Tensor]:
        """Values by which activations stay small."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        found = []
        for number, shape in enumerate(self.parameters):
            tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
            fan = prod(shape[1:]) if len(shape) > 1 else 2
            tensor = tensor / fan**0.5
            found.append(tensor.abs() + 0.5 if number in self.variances else tensor)
        buffers = self.network.buffers
        return [tensor.requires_grad_(number not in buffers) for number, tensor in enumerate(found)]


class Drawing:
    """Adds layers to a graph as hypothesis draws them."""

    def __init__(self, draw: st.DrawFn, graph: Graph) -> None:
        self.draw, self.graph = draw, graph
        self.norm_modules: list[tuple[layers.BatchNorm, tuple[int, ...], int, int]] = []

    def pick(self, *choices: int) -> int:
        return self.draw(st.sampled_from(choices))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def parameter(self, *shape: int) -> int:
        """A new one, or one that another layer has."""
        graph = self.graph
        known = [i for i, other in enumerate(graph.parameters) if other == shape and i not in self.buffers]
        if known and self.pick(0, 0, 1):
            return self.draw(st.sampled_from(known))
        graph.parameters.append(shape)
        return len(graph.parameters) - 1

    @property
    def buffers(self) -> set[int]:
        return {number for layer, own, *_ in self.norm_modules if layer.tracked for number in own[-2:]}

    def parameters(self, weight: Shape, outputs: int) -> list[int]:
        """A weight and perhaps a bias."""
        return [self.parameter(*weight), *([self.parameter(outputs)] if self.flag() else [])]

    def value(self, rank: int | None = None) -> int | None:
        """One of the last values more often than one before."""
        shapes = self.graph.shapes
        found = [i for i, shape in enumerate(shapes) if rank in (None, len(shape)) and prod(shape) < 4000]
        return self.draw(st.sampled_from([*found, *found[-2:], *found[-1:]])) if found else None

    def step(self) -> None:
        """One layer more; none where what was drawn does not fit."""
        kind = self.draw(st.sampled_from([*IMAGE_KINDS, *KINDS, "wide"]))
        value = self.value(3 if kind in IMAGE_KINDS else 1 if kind == "wide" else None)
        if value is not None:
            getattr(self, kind)(value, self.graph.shapes[value])

    def conv2d(self, value: int, shape: Shape) -> None:
        channels, height, width = shape
        kernel = [self.pick(*(k for k in (1, 2, 3) if k <= size)) for size in (height, width)]
        stride, padding = (self.pick(1, 1, 2), self.pick(1, 2)), [self.pick(0, 0, 1, 2) for _ in range(4)]
        dilation = [2 if 2 * (k - 1) < size and self.pick(0, 0, 1) else 1 for k, size in
                    zip(kernel, (height, width), strict=True)]  # fmt: skip
        groups = self.pick(*(g for g in (1, 1, 2, 3) if channels % g == 0))
        outputs = groups * self.pick(1, 2, 3)
        one_row = kernel[0] == 1 and self.flag()
        weight = (outputs, channels // groups, *(kernel[1:] if one_row else kernel))
        layer = layers.Conv2d(stride, tuple(padding), tuple(dilation), groups)
        sizes = [(size + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i]
                 + 1 for i, size in enumerate((height, width))]  # fmt: skip
        if outputs * prod(sizes) <= MOST_ELEMENTS:
            self.graph.add(layer, [value], (outputs, *sizes), self.parameters(weight, outputs))

    def conv_transpose2d(self, value: int, shape: Shape) -> None:
        channels, *image = shape
        kernel, stride = [self.pick(1, 2, 3) for _ in image], [self.pick(1, 2) for _ in image]
        dilation = [self.pick(1, 1, 2) for _ in image]
        padding = [self.pick(0, 0, k // 2) for k in kernel]
        extra = [self.pick(0, s - 1) for s in stride]
        groups = self.pick(*(g for g in (1, 1, 2, 3) if channels % g == 0))
        outputs = groups * self.pick(1, 2)
        sizes = [s * (size - 1) - 2 * p + d * (k - 1) + e + 1 for size, k, s, d, p, e in
                 zip(image, kernel, stride, dilation, padding, extra, strict=True)]  # fmt: skip
        if min(sizes) < 1 or outputs * prod(sizes) > MOST_ELEMENTS:
            return
        layer = layers.ConvTranspose2d(*map(tuple, (stride, padding, extra, dilation)), groups)
        weight = (channels, outputs // groups, *kernel)
        self.graph.add(layer, [value], (outputs, *sizes), self.parameters(weight, outputs))

    def pool(self, kind: type[Layer], value: int, shape: Shape) -> None:
        image = shape[1:]
        kernel = tuple(self.pick(*(k for k in (1, 2, 3) if k <= size)) for size in image)
        stride = (self.pick(1, 2), self.pick(1, 2, 3))
        padding = tuple(self.pick(0, k // 2) for k in kernel)
        if kind is layers.MaxPool2d:
            layer: Layer = layers.MaxPool2d(kernel, stride, padding, (1, 1), self.flag())
        else:
            layer = layers.AvgPool2d(kernel, stride, padding, self.flag(), self.flag(), self.pick(0, 0, 3))
        output = layer.apply(torch.zeros(1, *shape))
        self.graph.add(layer, [value], tuple(output.shape[1:]))

    def max_pool2d(self, value: int, shape: Shape) -> None:
        self.pool(layers.MaxPool2d, value, shape)

    def avg_pool2d(self, value: int, shape: Shape) -> None:
        self.pool(layers.AvgPool2d, value, shape)

    def adaptive_avg_pool2d(self, value: int, shape: Shape) -> None:
        sizes = (self.pick(1, 2, 3), self.pick(1, 2))
        self.graph.add(layers.AdaptiveAvgPool2d(sizes), [value], (shape[0], *sizes))

    def adaptive_max_pool2d(self, value: int, shape: Shape) -> None:
        sizes = (self.pick(1, 2, 3), self.pick(1, 2))
        self.graph.add(layers.AdaptiveMaxPool2d(sizes), [value], (shape[0], *sizes))

    def linear(self, value: int, shape: Shape) -> None:
        outputs = self.pick(1, 3, 7, 17)
        if prod(shape[:-1]) * outputs <= MOST_ELEMENTS:
            parameters = self.parameters((outputs, shape[-1]), outputs)
            self.graph.add(layers.Linear(), [value], (*shape[:-1], outputs), parameters)

    def wide(self, value: int, shape: Shape) -> None:
        """A linear layer to many features or from many, with what leaves few of them."""
        (features,) = shape
        many = WIDE_WEIGHTS // max(features, 8) + 1
        if self.flag() and features >= 8:
            own = self.parameters((many, features), many)
            wide = self.graph.add(layers.Linear(), [value], (many,), own)
            self.graph.add(layers.Slice(0, 1, many, many // 9), [wide], (-(-(many - 1) // (many // 9)),))
        else:
            begin = max(many - features, 0) // 2
            end = max(many - features, 0) - begin
            padded = self.graph.add(layers.Pad((begin, end), 0.01), [value], (features + begin + end,))
            own = self.parameters((max(features, 8), features + begin + end), max(features, 8))
            self.graph.add(layers.Linear(), [padded], (max(features, 8),), own)

    def batch_norm(self, value: int, shape: Shape) -> None:
        training = self.flag() and self.graph.batch * prod(shape[1:]) > 1
        known = [norm for norm in self.norm_modules if norm[2] == shape[0]]
        if known and self.pick(0, 0, 1):
            layer, own, _, count = self.draw(st.sampled_from(known))
            if layer.uses_batch_statistics and not training:
                return
        else:
            affine, tracked = self.flag(), not training or self.flag()
            own = tuple(self.parameter(shape[0]) for _ in range(2 * affine))
            if tracked:
                begin = len(self.graph.parameters)
                self.graph.parameters += [(shape[0],)] * 2
                own += (begin, begin + 1)
                self.graph.variances.add(begin + 1)
            momentum = self.draw(st.sampled_from([0.1, 0.4, float("nan")]))
            eps = self.draw(st.sampled_from([0.1, 1e-3]))
            layer, count = layers.BatchNorm(training, affine, tracked, eps, momentum), self.graph.counts
            self.graph.counts += 1
            self.norm_modules.append((layer, own, shape[0], count))
        if layer.updates:
            self.graph.norms.append(count)
        self.graph.add(layer, [value], shape, own)

    def dropout(self, value: int, shape: Shape) -> None:
        self.graph.add(
            layers.Dropout(self.flag(), self.draw(st.sampled_from([0.0, 0.3, 1.0]))), [value], shape
        )

    def activation(self, value: int, shape: Shape) -> None:
        kind = self.draw(st.sampled_from(sorted(ACTIVATIONS)))
        self.graph.add(Activation.of((), REALS.get(kind, ()), kind), [value], shape)

    def prelu(self, value: int, shape: Shape) -> None:
        self.graph.add(layers.PReLU(), [value], shape, [self.parameter(self.pick(1, shape[0]))])

    def softmax(self, value: int, shape: Shape) -> None:
        self.graph.add(layers.Softmax(self.pick(*range(len(shape)))), [value], shape)

    def log_softmax(self, value: int, shape: Shape) -> None:
        self.graph.add(layers.LogSoftmax(self.pick(*range(len(shape)))), [value], shape)

    def flatten(self, value: int, shape: Shape) -> None:
        self.graph.add(layers.Flatten(), [value], (prod(shape),))

    def reshape(self, value: int, shape: Shape) -> None:
        elements = prod(shape)
        first = self.pick(*(n for n in (1, 2, 3, 4) if elements % n == 0))
        sizes = self.draw(st.sampled_from([(first, -1), (first, 1, -1), (first, elements // first, 1)]))
        known = tuple(elements // first if size == -1 else size for size in sizes)
        self.graph.add(layers.Reshape(sizes), [value], known)

    def permute(self, value: int, shape: Shape) -> None:
        dims = tuple(self.draw(st.permutations(range(len(shape)))))
        self.graph.add(layers.Permute(dims), [value], tuple(shape[dim] for dim in dims))

    def pad(self, value: int, shape: Shape) -> None:
        edges = [self.pick(0, 0, 1, 2, *([-1] if size > 2 else [])) for size in shape for _ in range(2)]
        sizes = tuple(size + edges[2 * i] + edges[2 * i + 1] for i, size in enumerate(shape))
        if prod(sizes) <= MOST_ELEMENTS:
            value_of = self.draw(st.sampled_from([0.0, 0.3]))
            self.graph.add(layers.Pad(tuple(edges), value_of), [value], sizes)

    def slice(self, value: int, shape: Shape) -> None:
        dim = self.pick(*range(len(shape)))
        start = self.draw(st.integers(0, shape[dim] - 1))
        stop, step = self.draw(st.integers(start + 1, shape[dim])), self.pick(1, 1, 2)
        sizes = (*shape[:dim], -(-(stop - start) // step), *shape[dim + 1 :])
        self.graph.add(layers.Slice(dim, start, stop, step), [value], sizes)

    def same(self, shape: Shape) -> int:
        return self.pick(*(i for i, other in enumerate(self.graph.shapes) if other == shape))

    def add(self, value: int, shape: Shape) -> None:
        alpha = self.draw(st.sampled_from([1.0, -0.5]))
        self.graph.add(layers.Add(alpha), [value, self.same(shape)], shape)

    def mul(self, value: int, shape: Shape) -> None:
        self.graph.add(layers.Mul(), [value, self.same(shape)], shape)

    def concat(self, value: int, shape: Shape) -> None:
        dim = self.pick(*range(len(shape)))

        def rest(other: Shape) -> Shape:
            return (*other[:dim], *other[dim + 1 :])

        fitting = [i for i, other in enumerate(self.graph.shapes)
                   if len(other) == len(shape) and rest(other) == rest(shape)]  # fmt: skip
        values = [value, *self.draw(st.lists(st.sampled_from(fitting), max_size=2))]
        size = sum(self.graph.shapes[i][dim] for i in values)
        if prod(rest(shape)) * size <= MOST_ELEMENTS:
            self.graph.add(layers.Concat(dim), values, (*shape[:dim], size, *shape[dim + 1 :]))

    def finish(self) -> None:
        """Returns what nobody reads, and perhaps more."""
        graph = self.graph
        for value in range(len(graph.shapes)):
            read = {other for node in graph.nodes for other in node.values}
            if value not in read and graph.root(value) == 0:
                graph.add(layers.scale(0.5, 0.1), [value], graph.shapes[value])
        read = {other for node in graph.nodes for other in node.values}
        outputs = [value for value in range(1, len(graph.shapes)) if value not in read]
        others = [value for value in range(1, len(graph.shapes)) if graph.root(value) != 0]
        more = self.draw(st.lists(st.sampled_from(others), max_size=2))
        graph.outputs = tuple(self.draw(st.permutations([*outputs, *more])))


@st.composite
def graphs(draw: st.DrawFn, most_layers: int = 12) -> Graph:
    batch, seed = draw(st.sampled_from(BATCHES)), draw(st.integers(0, 2**16))
    shape = draw(
        st.sampled_from([(2, 5, 6), (3, 4, 4), (1, 7, 3), (6, 2, 5), (4, 1, 9), (3, 8), (17,), (6,)])
    )
    graph = Graph(batch, shape, seed, shapes=[shape])
    drawing = Drawing(draw, graph)
    for _ in range(draw(st.integers(1, most_layers))):
        drawing.step()
    drawing.finish()
    return graph


def native(
    graph: Graph, images: Tensor, tensors: Sequence[Tensor], seed: Tensor, counts: Sequence[Tensor]
) -> list[Tensor]:
    """The outputs by torch alone, apart from the masks of dropout; changes running statistics and counts."""
    values, norms = [images], iter(graph.norms)
    for number, (layer, read, own, _) in enumerate(graph.nodes):
        inputs, parameters = [values[i] for i in read], [tensors[i] for i in own]
        first = inputs[0]
        bias = parameters[1] if len(parameters) > 1 else None
        if isinstance(layer, layers.Dropout):
            output = first * layer.mask(first.detach(), seed, number)
        elif isinstance(layer, layers.BatchNorm):
            output = _batch_norm(layer, first, parameters, counts[next(norms)] if layer.updates else None)
        elif isinstance(layer, layers.Linear):
            output = F.linear(first, parameters[0], bias)
        elif isinstance(layer, layers.Conv2d):
            weight = parameters[0] if parameters[0].dim() == 4 else parameters[0].unsqueeze(2)
            top, bottom, left, right = layer.padding
            padded = F.pad(first, (left, right, top, bottom))
            output = F.conv2d(padded, weight, bias, layer.stride, 0, layer.dilation, layer.groups)
        elif isinstance(layer, layers.MaxPool2d):
            output = F.max_pool2d(
                *(first, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
            )
        elif isinstance(layer, Activation) and layer.kind == "hardsigmoid":
            output = F.relu6(first + 3) / 6  # the gradient of torch's own is a sixth in float32
        elif isinstance(layer, Activation) and layer.kind == "relu":
            output = F.relu(first)
        else:
            output = layer.apply(*inputs, *parameters)
        values.append(output)
    return [values[i] for i in graph.outputs]


def _batch_norm(
    layer: layers.BatchNorm, input: Tensor, parameters: Sequence[Tensor], count: Tensor | None
) -> Tensor:
    weight, bias = parameters[:2] if layer.affine else (None, None)
    mean, variance = parameters[-2:] if layer.tracked else (None, None)
    momentum = layer.momentum
    if count is not None:
        count += 1
        momentum = 1 / float(count) if momentum != momentum else momentum
    training = layer.uses_batch_statistics
    # torch takes a gradient of other strides for dense where images are a pixel high: here it is dense.
    output = F.batch_norm(input, mean, variance, weight, bias, training, momentum, layer.eps)
    return output.reshape(-1).view(output.shape)
