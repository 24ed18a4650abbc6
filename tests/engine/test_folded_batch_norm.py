"""Inference with batch norms in eval mode, which become part of the layer before them where that is all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from stages import assert_near
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.layers import (
    Activation,
    Add,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Reshape,
)
from lenet_ext.engine.network import Network, Node

# bfloat16 is rounded once, at the end.
TOLERANCES = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 4e-3}
RELU, POOL = Activation("relu"), MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False)
CONV = Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 1)


def norm(affine: bool = True) -> BatchNorm:
    return BatchNorm(False, affine, True, 1e-5, 0.1)


def random_values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def statistics(channels: int, affine: bool = True) -> list[Tensor]:
    """Weight and bias, running mean and variance: one weight is 0, one negative, a variance 0."""
    weight, bias, mean = (random_values(channels, seed=seed) for seed in range(3))
    variance = random_values(channels, seed=3).square() + 0.1
    variance[-1] = 0
    if affine:
        weight[0], weight[-1] = 0, -0.01
    return [*([weight, bias] if affine else []), mean, variance]


def check(network: Network, images: Tensor, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Against the layers one by one, in float64 on the same numbers."""
    x, tensors = images.to(dtype), [parameter.to(dtype) for parameter in parameters]
    outputs = torch.ops.lenet_ext.network(x, tensors, network.program(), None, None)
    expected = network.apply(x.double(), [tensor.double() for tensor in tensors])
    for i, (output, right) in enumerate(zip(outputs, expected, strict=True)):
        assert_near(output, right, f"output {i}", TOLERANCES[dtype])


def chain(*layers: tuple[Layer, int]) -> Network:
    """Layers one after the other, each with so many parameters of its own."""
    first, placed = 0, []
    for layer, count in layers:
        placed.append((layer, tuple(range(first, first + count))))
        first += count
    return Network.chain("Test", *placed)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_layers(has_bias: bool, affine: bool, dtype: torch.dtype) -> None:
    cases = [
        (CONV, (6, 3, 3, 3), 6, (9, 3, 12, 13)),
        (CONV, (17, 32, 3, 3), 17, (2, 32, 9, 18)),  # Winograd's method
        (Conv2d((2, 1), (0, 1, 2, 0), (1, 2), 2), (4, 3, 2, 3), 4, (5, 6, 9, 10)),
        (ConvTranspose2d((2, 2), (0, 1), (1, 0), (1, 1), 1), (5, 3, 3, 2), 3, (5, 5, 4, 7)),
        (ConvTranspose2d((1, 2), (0, 0), (0, 0), (1, 1), 2), (4, 3, 2, 2), 6, (33, 4, 6, 6)),
        (Linear(), (10, 30), 10, (7, 30)),
    ]
    for layer, weight_shape, channels, shape in cases:
        weight = random_values(*weight_shape)
        own = [weight, random_values(channels, seed=4)][: 1 + has_bias]
        norms = statistics(channels, affine)
        parameters, images = own + norms, random_values(*shape)
        for behind in ((), (RELU,)) if isinstance(layer, Linear) else ((), (RELU,), (RELU, POOL)):
            network = chain((layer, len(own)), (norm(affine), len(norms)), *((one, 0) for one in behind))
            check(network, images, parameters, dtype)
        check(network, images[:1], parameters, dtype)
        check(network, images[:0], parameters, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_norm_for_two_layers(dtype: torch.dtype) -> None:
    nodes = (
        Node(CONV, (0,), (0,)),
        Node(norm(), (1,), (2, 3, 4, 5)),
        Node(RELU, (2,)),
        Node(CONV, (3,), (1,)),
        Node(norm(), (4,), (2, 3, 4, 5)),
    )
    parameters = [random_values(4, 2, 3, 3), random_values(4, 4, 3, 3), *statistics(4)]
    check(Network("Test", nodes, (5,)), random_values(6, 2, 7, 8), parameters, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_others_that_read_what_the_layer_gives(dtype: torch.dtype) -> None:
    conv, normed = Node(CONV, (0,), (0,)), Node(norm(), (1,), (1, 2, 3, 4))
    parameters, images = [random_values(4, 2, 3, 3), *statistics(4)], random_values(6, 2, 7, 8)
    residual = Network("Test", (conv, normed, Node(Add(1.0), (2, 1))), (3,))
    both = Network("Test", (conv, normed), (2, 1))
    two = Network("Test", (conv, normed, Node(RELU, (1,)), Node(Add(0.5), (2, 3))), (4,))
    for network in (residual, both, two):
        check(network, images, parameters, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_no_channel_of_the_layer(dtype: torch.dtype) -> None:
    """Rows of a linear layer, pixels of a convolution, and what lies behind an activation or a pool."""
    linear, rows = [random_values(5, 5), random_values(5)], random_values(9, 5, 5)
    check(chain((Linear(), 2), (norm(), 4)), rows, linear + statistics(5), dtype)
    weight, images = random_values(4, 2, 3, 3), random_values(6, 2, 4, 6)
    for layers, channels in (
        ([(Flatten(), 0)], 96),
        ([(Reshape((4, 24)), 0)], 4),  # as before
        ([(Reshape((2, 48)), 0)], 2),
        ([(RELU, 0)], 4),
        ([(POOL, 0)], 4),
        ([(norm(), 4)], 4),
    ):
        network = chain((CONV, 1), *layers, (norm(), 4), (RELU, 0))
        between = statistics(4) if isinstance(layers[0][0], BatchNorm) else []
        check(network, images, [weight, *between, *statistics(channels)], dtype)


def test_changes_between_calls_are_seen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)).double()
    images = random_values(8, 2, 9, 9)
    fused = lenet_ext.fuse(model, images).train()
    with torch.no_grad():
        fused(images)  # moves the running statistics
        fused.eval()
        torch.testing.assert_close(fused(images), model(images), rtol=1e-11, atol=1e-11)
        for tensor in (*model.parameters(), *model[1].buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.5)
                torch.testing.assert_close(fused(images), model(images), rtol=1e-11, atol=1e-11)


def test_with_gradients_the_norm_stays() -> None:
    """Training a network whose batch norms are in eval mode: their weights have gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)).double().eval()
    images = random_values(8, 2, 9, 9)
    fused = lenet_ext.fuse(model, images).eval()
    grads = []
    for net in (fused, model):
        model.zero_grad()
        net(images).square().sum().backward()
        grads.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    assert len(grads[0]) == 4
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-11)
