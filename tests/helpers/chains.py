"""Networks that are chains of layers, drawn by hypothesis, and what native torch computes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from compare import exact
from hypothesis import strategies as st
from strategies import normal
from torch import Tensor, nn

from lenet_ext.engine.capture import Captured, ImageSizes, Leaf, Mode
from lenet_ext.engine.fused import FusedNet
from lenet_ext.engine.layers import Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d
from lenet_ext.engine.network import Network, Node

# A tile of the engine holds at most 32 images, and a batch is cut into at least four of them.
BATCHES = [0, 1, 2, 3, 17, 33, 70]
CHANNELS = [1, 2, 3, 5, 8, 16, 17]
FEATURES = [1, 2, 7, 15, 16, 17, 33]


@dataclass(frozen=True)
class Chain:
    """A network of modules of torch, in eval mode, and the shape of its input."""

    model: nn.Sequential
    shape: tuple[int, ...]
    seed: int

    def images(self, dtype: torch.dtype) -> Tensor:
        return normal(self.shape, dtype, self.seed)

    def in_dtype(self, dtype: torch.dtype) -> nn.Sequential:
        """The network, turned into one with weights that every dtype can hold."""
        return self.model.to(torch.bfloat16).to(dtype)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    seed = draw(st.integers(0, 2**16))
    batch = draw(st.sampled_from(BATCHES))
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    if draw(st.integers(0, 5)) == 0:
        shape: tuple[int, ...] = (draw(st.sampled_from(FEATURES)),)
    else:
        sizes = st.sampled_from([1, 2, 4, 5, 7, 8, 11, 12])
        shape = (draw(st.sampled_from([1, 2, 3, 6])), draw(sizes), draw(sizes))
    image_shape = shape
    if len(shape) == 3:
        for _ in range(draw(st.integers(0, 5))):
            kind = draw(st.sampled_from(["conv", "conv", "relu", "pool", "dropout"]))
            modules.append(_image_layer(draw, kind, shape))
            shape = tuple(modules[-1](torch.zeros(1, *shape)).shape[1:])
        if not modules or draw(st.booleans()):
            modules.append(nn.Flatten())
            shape = (shape[0] * shape[1] * shape[2],)
    for _ in range(draw(st.integers(0, 3)) if len(shape) == 1 else 0):
        modules.append(nn.Linear(shape[0], draw(st.sampled_from(FEATURES)), draw(st.booleans())))
        shape = (modules[-1].out_features,)
        modules += draw(st.sampled_from([[nn.ReLU()], [nn.ReLU(), nn.Dropout()], []]))
    if all(isinstance(module, (nn.Flatten, nn.Dropout)) for module in modules):
        modules.append(nn.ReLU())  # else there is nothing to compute
    return Chain(nn.Sequential(*modules).eval(), (batch, *image_shape), seed)


def _image_layer(draw: st.DrawFn, kind: str, shape: tuple[int, ...]) -> nn.Module:
    if kind == "relu":
        return nn.ReLU()
    if kind == "dropout":
        return nn.Dropout(0.5)
    kernel = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5] if kind == "conv" else [1, 2, 2, 3])] * 2))
    stride = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 1, 2])] * 2))
    extent = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    if kind == "pool":
        # Where the kernel fits without padding, every window holds a pixel.
        if extent[0] > shape[1] or extent[1] > shape[2]:
            kernel = dilation = (1, 1)
        padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=draw(st.booleans()))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
    if any(extent[i] > shape[1 + i] + 2 * padding[i] for i in range(2)):
        kernel = (1, 1)
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 8) if shape[0] % g == 0]))
    channels = draw(st.sampled_from(CHANNELS)) if groups == 1 else groups * draw(st.integers(1, 3))
    same = stride == (1, 1) and draw(st.booleans())
    return nn.Conv2d(
        shape[0], channels, kernel, stride, "same" if same else padding, dilation, groups, draw(st.booleans())
    )


def layer_of(module: nn.Module) -> Layer:
    if isinstance(module, nn.Conv2d):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        return Conv2d(module.stride, (top, bottom, left, right), module.dilation, module.groups)
    if isinstance(module, nn.MaxPool2d):
        return MaxPool2d(
            *(module.kernel_size, module.stride, module.padding, module.dilation), module.ceil_mode
        )
    if isinstance(module, nn.Linear):
        return Linear()
    return Activation("relu") if isinstance(module, nn.ReLU) else Flatten()


def captured(chain: Chain) -> Captured:
    """What `capture` finds, without the time that torch.export takes."""
    nodes: list[Node] = []
    names: list[str] = []
    for path, module in chain.model.named_children():
        if isinstance(module, nn.Dropout):
            continue
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        parameters = tuple(range(len(names), len(names) + len(own)))
        nodes.append(Node(layer_of(module), (len(nodes),), parameters, path))
        names += own
    dropout = [path for path, module in chain.model.named_children() if isinstance(module, nn.Dropout)]
    network = Network("FusedNet", tuple(nodes), (len(nodes),))
    mode = Mode(network, ImageSizes(chain.shape[1:]), Leaf(0))
    return Captured(tuple(names), (), tuple(dropout), {(False,) * len(dropout): mode})


def fused_without_export(chain: Chain) -> FusedNet:
    return FusedNet(chain.model, captured(chain), None)


def results(function: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of the images and all parameters."""
    images = images.detach().requires_grad_()
    output = function(images)
    weights = normal(tuple(output.shape), torch.bfloat16, 7).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, [images, *model.parameters()], weights)]


@torch.no_grad()
def margin(model: nn.Sequential, x: Tensor) -> float:
    """How near `model`, at x, is to another branch of a relu or another maximum, relative to the values.

    Rounding may decide otherwise there, and the gradients are then others. Equal values are equal in every
    arithmetic: they are copies of one another.
    """
    least = float("inf")
    for module in model:
        gaps = x.abs() if isinstance(module, nn.ReLU) else x.new_empty(0)
        if isinstance(module, nn.MaxPool2d):
            kernel, stride, padding, dilation = (
                getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")
            )
            (top, left), positions = padding, kernel[0] * kernel[1]
            ends = (left, left + stride[1] - 1, top, top + stride[0] - 1)
            padded = F.pad(x, ends, value=-torch.inf)
            windows = F.unfold(padded, kernel, dilation, 0, stride).unflatten(1, (x.shape[1], positions))
            best = windows.topk(min(2, positions), dim=2).values
            gaps = best[:, :, 0] - best[:, :, -1]
        gaps = gaps[gaps > 0]
        if gaps.numel():
            least = min(least, float(gaps.min() / x.abs().max()))
        x = module(x)
    return least


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Checks shape, and values to `tolerance` of the largest; a 16-bit tensor may be rounded once more."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs()
    slack = tolerance * expected.double().abs().max()
    if actual.dtype in (torch.bfloat16, torch.float16):
        storage = torch.finfo(actual.dtype)
        slack = slack + storage.eps * expected.double().abs() + storage.smallest_normal * storage.eps
    assert bool((error <= slack).all()), f"error {error.max():.2e} of {abs(exact(expected)).max():.2e}"
