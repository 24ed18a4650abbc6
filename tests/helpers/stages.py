"""Networks of a few layers through the engine's operators, beside their layers one by one in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lenet_ext.engine.layers import Layer
from lenet_ext.engine.network import Network

# A few roundings of values about as large as the largest; sums of some hundred terms among them.
TOLERANCES = {torch.float32: 4e-6, torch.float64: 1e-13}


class Results(NamedTuple):
    """Of a pass: outputs, and gradients by the images and by the parameters."""

    outputs: list[Tensor]
    grad_images: Tensor
    grad_parameters: list[Tensor]


def one(layer: Layer, *followers: Layer, parameters: int = 0) -> Network:
    """A chain whose first layer has all parameters."""
    own = (layer, tuple(range(parameters)))
    return Network.chain("Test", own, *((follower, ()) for follower in followers))


def engine_pass(
    network: Network,
    images: Tensor,
    parameters: Sequence[Tensor] = (),
    grads: Sequence[Tensor] | None = None,
    seed: Tensor | None = None,
) -> Results:
    """By the operators; grads: of the outputs, ones if None."""
    ops, program, tensors = torch.ops.lenet_ext, network.program(), list(parameters)
    outputs, saved, argmax = ops.network_forward(images, tensors, program, None, seed)
    for output, same in zip(outputs, ops.network(images, tensors, program, None, seed), strict=True):
        torch.testing.assert_close(same, output, rtol=0, atol=0, equal_nan=True)
    grads = [torch.ones_like(output) for output in outputs] if grads is None else list(grads)
    grad_images, *others = ops.network_backward(
        *(grads, images, tensors, saved, argmax, program, None, seed, True, True)
    )
    return Results(outputs, grad_images, others)


def layers_pass(
    network: Network,
    images: Tensor,
    parameters: Sequence[Tensor] = (),
    grads: Sequence[Tensor] | None = None,
    seed: Tensor | None = None,
) -> Results:
    """By the functions of the layers, in float64."""
    x = images.double().clone().requires_grad_()
    trained = [p.double().clone().requires_grad_(i not in network.buffers) for i, p in enumerate(parameters)]
    outputs = network.apply(x, trained, seed)
    grads = [torch.ones_like(output) for output in outputs] if grads is None else grads
    torch.autograd.backward(outputs, [grad.double() for grad in grads])
    no_grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    grad_images = torch.zeros_like(x) if x.grad is None else x.grad
    return Results([output.detach() for output in outputs], grad_images, no_grads)


def assert_near(actual: Tensor, expected: Tensor, what: str, tolerance: float | None = None) -> None:
    """Relative to the largest value, of those that are finite; the others must be the same."""
    assert actual.shape == expected.shape, what
    finite = expected.isfinite()
    torch.testing.assert_close(actual[~finite].double(), expected[~finite], rtol=0, atol=0, equal_nan=True)
    if not bool(finite.any()):
        return
    error = (actual[finite].double() - expected[finite]).abs().max() / (1 + expected[finite].abs().max())
    assert float(error) <= (tolerance or TOLERANCES[actual.dtype]), f"{what}: off by {float(error)}"


def check(
    network: Network,
    images: Tensor,
    parameters: Sequence[Tensor] = (),
    seed: Tensor | None = None,
    tolerance: float | None = None,
) -> Results:
    """The engine's outputs and gradients, having compared them with those of the layers."""
    with torch.no_grad():
        doubles = [parameter.double() for parameter in parameters]
        outputs = network.apply(images.double(), doubles, seed)
        generator = torch.Generator().manual_seed(5)
        grads = [torch.randn(o.shape, generator=generator, dtype=images.dtype) for o in outputs]
    actual = engine_pass(network, images, parameters, grads, seed)
    expected = layers_pass(network, images, parameters, grads, seed)
    for i, (output, right) in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
        assert_near(output, right, f"output {i}", tolerance)
    assert_near(actual.grad_images, expected.grad_images, "gradient of the images", tolerance)
    for i, (grad, right) in enumerate(zip(actual.grad_parameters, expected.grad_parameters, strict=True)):
        assert_near(grad, right, f"gradient of parameter {i}", tolerance)
    return actual
