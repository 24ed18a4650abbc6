"""Hypothesis strategies for calls of the raw operators: sound, spoilt, and with any arguments whatever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from chains import chains, fused_without_export
from hypothesis import assume
from hypothesis import strategies as st
from operators import operators, options
from strategies import conv_cases, laid_out, pool_cases
from torch import Tensor
from torch.utils._pytree import tree_leaves
from wild_tensors import DTYPES, integers_near_zero, wild_tensors

from lenet_ext.engine.layers import Activation, BatchNorm
from lenet_ext.engine.network import Network

WILD_INTEGERS = [
    *(0, 1, 2, 3, 4, 5, 7, 16, 17, 255, 256, 257, 1000, -1, -2, -7),
    *(2**16, 2**20, 2**30, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**31), -(2**62), -(2**63)),
]
WORDS = [
    "",
    "|",
    "conv2d",
    "linear",
    "relu",
    "flatten",
    "max_pool2d",
    "return",
    "loss",
    "optimizer",
    "SGD",
    "nan",
]
WILD_FLOATS = [0.0, 0.5, 1.0, -1.0, 1e-40, 1e30, 1e300, float("inf"), float("-inf"), float("nan")]


@dataclass
class Call:
    """An operator and its arguments; `spoilt` are the positions of those that did not fit together."""

    name: str
    arguments: list[Any]
    spoilt: set[int] = field(default_factory=set)

    def tensors(self) -> list[Tensor]:
        lists = (value if isinstance(value, list) else [value] for value in self.arguments)
        return [value for values in lists for value in values if isinstance(value, Tensor)]

    def __call__(self) -> list[Tensor]:
        results = getattr(operators, self.name).default(*self.arguments)
        return [result for result in tree_leaves(results) if result is not None]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(describe, self.arguments))}), spoilt: {sorted(self.spoilt)}"


def describe(value: object) -> str:
    if isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
        return f"[{', '.join(map(describe, value))}]"
    if not isinstance(value, Tensor):
        return repr(value)
    if value.is_nested:
        return f"<nested {value.dtype}>"
    strides = tuple(value.stride()) if value.layout == torch.strided else value.layout
    return f"<{tuple(value.shape)} {strides} {value.dtype} {value.device}>"


def small(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Small whole numbers: their sums are exact in every dtype, and equal ones are frequent."""
    return integers_near_zero(shape, seed).to(dtype)


@st.composite
def conv2d_calls(draw: st.DrawFn, name: str) -> list[Any]:
    case = draw(conv_cases())
    x = laid_out(small(case.input_shape, case.dtype, case.seed), case.layout)
    weight = small(case.weight_shape, case.dtype, case.seed + 1)
    bias = small(case.weight_shape[:1], case.dtype, case.seed + 2) if case.bias else None
    numbers = list(case.geometry.numbers())
    if name == "conv2d":
        return [x, weight, bias, *numbers]
    shape = operators.conv2d(x.to("meta"), weight.to("meta"), None, *numbers).shape
    gy = laid_out(small(shape, case.dtype, case.seed + 3), draw(st.sampled_from([case.layout, "contiguous"])))
    if name == "conv2d_input_grad":
        return [gy, weight, *x.shape[2:], *numbers]
    if name == "conv2d_weight_grad":
        return [gy, x, *weight.shape[2:], *numbers, case.bias]
    return [gy, x, weight, *numbers, case.bias]


@st.composite
def linear_calls(draw: st.DrawFn, name: str) -> list[Any]:
    sizes = st.sampled_from([0, 1, 2, 3, 7, 8, 15, 16, 17, 33])
    rows = draw(st.lists(sizes, max_size=3))
    in_features, out_features, seed = draw(sizes), draw(sizes), draw(st.integers(0, 2**16))
    dtype, bias = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    stack = draw(st.sampled_from([(), (), (1,), (3,)]))
    x = small((*stack, *rows, in_features), dtype, seed)
    weight = small((*stack, out_features, in_features), dtype, seed + 1)
    if draw(st.booleans()):
        weight = weight.mT.contiguous().mT
    gy = small((*stack, *rows, out_features), dtype, seed + 2)
    return {
        "linear": [x, weight, small((*stack, out_features), dtype, seed + 3) if bias else None],
        "linear_input_grad": [gy, weight],
        "linear_weight_grad": [gy, x, bias, bool(stack)],
        "linear_grads": [gy, x, weight, bias],
    }[name]


@st.composite
def max_pool2d_calls(draw: st.DrawFn, name: str) -> list[Any]:
    case = draw(pool_cases())
    x, geometry = case.input(), list(case.geometry())
    if name == "max_pool2d":
        return [x, *geometry, case.ceil_mode, draw(st.booleans())]
    output, argmax = operators.max_pool2d(x, *geometry, case.ceil_mode, True)
    if name == "max_pool2d_indices":
        return [argmax, *x.shape[2:], *geometry]
    return [small(tuple(output.shape), case.dtype, case.seed), argmax, *x.shape[2:], *geometry]


@st.composite
def relu_calls(draw: st.DrawFn, name: str) -> list[Any]:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 5, 17]), max_size=4).map(tuple))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16))
    x = small(shape, dtype, seed)
    if len(shape) == 4:
        x = laid_out(x, draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"])))
    return [small(shape, dtype, seed + 1), x] if name == "relu_grad" else [x]


@st.composite
def activation_calls(draw: st.DrawFn, name: str) -> list[Any]:
    """Those of whose results the oracle knows all bits."""
    tensors = draw(relu_calls(name.replace("activation", "relu")))
    return [*tensors, "leaky_relu", [draw(st.sampled_from([0.0, 0.25, 0.5]))]]


@st.composite
def dropout_calls(draw: st.DrawFn, name: str) -> list[Any]:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 5, 17]), min_size=2, max_size=4).map(tuple))
    like = small(shape, draw(st.sampled_from(DTYPES)), 0)
    seed = torch.tensor([draw(st.integers(0, 2**63 - 1))])
    return [like, seed, draw(st.integers(0, 99)), draw(st.booleans()), draw(st.sampled_from([0.0, 0.3, 1.0]))]


@st.composite
def statistics_calls(draw: st.DrawFn) -> list[Any]:
    """Two batch norms, one of which follows the other."""
    sizes = st.sampled_from([1, 2, 3, 8, 17])
    shape = draw(st.lists(sizes, min_size=2, max_size=4).map(tuple))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16))
    x = small((shape[0] + 1, *shape[1:]), dtype, seed)
    momentum = draw(st.sampled_from([0.1, float("nan")]))
    program = Network.chain(
        "FusedNet",
        (BatchNorm(True, True, True, 0.1, momentum), (0, 1, 2, 3)),
        (Activation("relu"), ()),
        (BatchNorm(True, False, True, 0.1, 0.3), (4, 5)),
    ).program()
    parameters = [small(shape[1:2], dtype, seed + i) for i in range(6)]
    normalization = None
    if draw(st.integers(0, 3)) == 0:
        x, normalization = torch.randint(256, x.shape, dtype=torch.uint8), torch.rand(2, x.shape[1])
    _, saved, _ = operators.network_forward(x, parameters, program, normalization, None)
    return [saved, x, parameters, [torch.tensor(3), torch.tensor(0)], program, normalization]


@st.composite
def network_calls(draw: st.DrawFn, name: str) -> list[Any]:
    if name == "network_statistics":
        return draw(statistics_calls())
    chain, dtype = draw(chains()), draw(st.sampled_from(DTYPES))
    chain.in_dtype(dtype)
    fused = fused_without_export(chain)
    images = chain.images(dtype)
    parameters = [p.detach() for p in fused.parameters()]
    program, normalization = fused._network.program(), None
    if parameters and draw(st.integers(0, 3)) == 0:
        images = torch.randint(256, images.shape, dtype=torch.uint8)
        normalization = torch.rand(2, images.shape[1])
    network = [images, parameters, program, normalization, None]
    if name in ("network", "network_forward"):
        return network
    (output,), saved, argmax = operators.network_forward(*network)
    if name == "network_backward":
        gy = small(tuple(output.shape), dtype, chain.seed)
        input_grad = normalization is None and draw(st.booleans())
        return [
            [gy],
            images,
            parameters,
            saved,
            argmax,
            program,
            normalization,
            None,
            input_grad,
            draw(st.booleans()),
        ]
    classes = output.dim() == 2 and draw(st.booleans())
    targets = torch.randint(output.shape[1], output.shape[:1]) if classes else torch.randn_like(output)
    order = torch.randperm(len(images)) if draw(st.booleans()) else None
    if name in ("network_sample_gradients", "network_clipped_sums"):
        places = draw(st.sampled_from([range(len(parameters)), [-1, *range(len(parameters) - 1)]]))
        training = fused._network.program(f"loss {'cross_entropy' if classes else 'mse'}")
        batch = [images, targets, parameters, list(places)[: len(parameters)], None, training, normalization]
        if name == "network_clipped_sums":
            batch = [*batch[:2], order, *batch[2:], draw(st.sampled_from([0.1, 1.0, 100.0]))]
        return [*batch, None, None]
    momentum = draw(st.sampled_from([0.0, 0.9]))
    count = sum(p.numel() for p in parameters)
    state = torch.zeros(count if momentum else 0, dtype=dtype)
    flags = [draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from([0.0, 0.1]))]
    flags += [bool(momentum) and draw(st.booleans()), draw(st.booleans())]
    rows = options(len(parameters), 0.01, momentum, *flags).reshape(-1, 7)
    if parameters and draw(st.booleans()):
        rows[0, 0] = 0  # a parameter that is left as it is
    if name == "network_noisy_update":
        assume(parameters)
        wanted = [i for i in range(len(parameters)) if draw(st.booleans())]
        size = sum(parameters[i].numel() for i in wanted)
        sums = torch.randn(size, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        noise = torch.randn(size, dtype=dtype) if draw(st.booleans()) else None
        own = [parameter.clone() for parameter in parameters]
        return [own, [state], rows, wanted, sums, noise, draw(st.sampled_from([1.0, 7.5])), "SGD"]
    batch_size = draw(st.sampled_from([0, 1, 2, 16] if len(images) else [1, 2]))
    training = fused._network.program(f"loss {'cross_entropy' if classes else 'mse'}", "optimizer SGD")
    return [
        *(images, targets, order, [p.clone() for p in parameters], [state], rows, [], None),
        *(training, normalization, batch_size, None, None),
    ]


@st.composite
def ensemble_calls(draw: st.DrawFn, name: str) -> list[Any]:
    """Of chains whose parameters are other ones in each member."""
    chain, dtype = draw(chains()), draw(st.sampled_from(DTYPES))
    chain.in_dtype(dtype)
    fused, members, own = fused_without_export(chain), draw(st.integers(0, 3)), draw(st.booleans())
    one = chain.images(dtype)
    images = torch.cat([one[:0], *(one * (1 + k) for k in range(members))]) if own else one
    scales = 1 + torch.arange(members).to(dtype) / 4
    parameters = [
        p.detach() * scales.reshape(-1, *[1] * p.dim()) if p.dim() > 0 else p * scales
        for p in fused.parameters()
    ]
    normalization = None
    (output,) = operators.network(one, list(fused.parameters()), fused._network.program(), None, None)
    if parameters and draw(st.integers(0, 3)) == 0:
        images = torch.randint(256, images.shape, dtype=torch.uint8)
        normalization = torch.rand(2, images.shape[1])
    if name == "ensemble":
        return [images, parameters, members, own, fused._network.program(), normalization, None]
    shape, classes = (len(images), *output.shape[1:]), output.dim() == 2 and draw(st.booleans())
    targets = torch.randint(shape[1], shape[:1]) if classes else torch.randn(shape).to(dtype)
    order = torch.randint(len(images), (draw(st.sampled_from([0, 1, 5, 40])),)) if len(images) else None
    order = order if draw(st.booleans()) else None
    available = st.integers(0, len(images) if order is None else len(order))
    ranges = [sorted(draw(st.tuples(available, available))) for _ in range(members)]
    momentum = draw(st.sampled_from([0.0, 0.9]))
    count = sum(p.numel() for p in parameters)
    state = torch.zeros(count if momentum else 0, dtype=dtype)
    rows = options(len(parameters), 0.01, momentum, 0.0, draw(st.sampled_from([0.0, 0.1]))).reshape(-1, 7)
    shared = draw(st.booleans())
    training = fused._network.program(f"loss {'cross_entropy' if classes else 'mse'}", "optimizer SGD")
    return [
        *(images, targets, order, torch.tensor(ranges, dtype=torch.int64).reshape(-1, 2)),
        *(parameters, [state], rows.expand(1 if shared else members, -1, -1).clone(), [], None),
        *(training, normalization, draw(st.sampled_from([1, 2, 16])), None, None),
    ]


FAMILIES: dict[str, Callable[[str], st.SearchStrategy[list[Any]]]] = {
    "conv2d": conv2d_calls,
    "linear": linear_calls,
    "max_pool2d": max_pool2d_calls,
    "relu": relu_calls,
    "activation": activation_calls,
    "dropout": dropout_calls,
    "network": network_calls,
    "ensemble": ensemble_calls,
}
# Every operator that the package registers, found by its schema.
NAMES = sorted(
    schema.name.removeprefix("lenet_ext::")
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("lenet_ext::")
)


def family_of(name: str) -> str:
    return next(family for family in FAMILIES if name.rstrip("_").startswith(family))


@st.composite
def wild_programs(draw: st.DrawFn, program: str) -> str:
    """`program` with some of its words and lines changed, left out, or moved."""
    lines = [line.split(" ") for line in program.split("\n")]
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["word", "word", "word", "less", "line", "order", "text"]))
        place = draw(st.integers(0, len(lines[line]) - 1)) if lines[line] else 0
        if change == "word" and lines[line]:
            lines[line][place] = draw(st.sampled_from(WILD_INTEGERS).map(str) | st.sampled_from(WORDS))
        elif change == "less":
            del lines[line][place:]
        elif change == "line":
            lines.insert(line, list(lines[draw(st.integers(0, len(lines) - 1))]))
        elif change == "order":
            lines = list(draw(st.permutations(lines)))
        elif change == "text":
            lines[line] = draw(st.text(max_size=20)).split(" ")
    return "\n".join(" ".join(words) for words in lines)


def wild(draw: st.DrawFn, kind: str, value: object) -> Any:
    """Anything that the schema's type lets through, near the sound `value` or far from it."""
    if kind.startswith("Optional["):
        optional = draw(st.integers(0, 3)) == 0
        return None if optional else wild(draw, kind.removeprefix("Optional[").removesuffix("]"), value)
    if kind == "Tensor":
        return draw(wild_tensors(value if isinstance(value, Tensor) else None))
    if kind in ("int", "SymInt"):
        near = isinstance(value, int) and draw(st.booleans())
        return value + draw(st.sampled_from([-1, 1])) if near else draw(st.sampled_from(WILD_INTEGERS))
    if kind == "float":
        return draw(st.sampled_from(WILD_FLOATS))
    if kind == "bool":
        return draw(st.booleans())
    if kind == "str":
        return draw(wild_programs(value if isinstance(value, str) else ""))
    element = kind.removeprefix("List[").removesuffix("]")
    items = list(value) if isinstance(value, list) else []
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(items)))
        if place < len(items) and draw(st.integers(0, 4)):
            items[place] = wild(draw, element, items[place])
        elif place < len(items) and draw(st.booleans()):
            del items[place]
        else:
            items.insert(place, wild(draw, element, None))
    return items


@st.composite
def calls(draw: st.DrawFn, name: str) -> Call:
    """A third are sound, most of the others have one to three wild arguments, and in some all are wild."""
    arguments = draw(FAMILIES[family_of(name)](name))
    kinds = [str(a.type) for a in getattr(operators, name).default._schema.arguments]
    count = draw(st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3, len(kinds)]))
    places = draw(st.permutations(range(len(kinds))))[:count]
    for place in places:
        arguments[place] = wild(draw, kinds[place], arguments[place])
    return Call(name, arguments, set(places))
