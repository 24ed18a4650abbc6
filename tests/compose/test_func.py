"""torch.func's transforms over every operator and over LeNet, against native torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import lenet_ext
import lenet_ext.functional as F
from lenet_ext.check import NATIVE

Call = Callable[..., Tensor]
# Of each operator: how it is called, and the shapes of its tensors.
CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "conv2d": (
        lambda f, x, w, b: f.conv2d(x, w, b, stride=(2, 1), padding=1),
        [(2, 2, 5, 4), (3, 2, 3, 2), (3,)],
    ),
    "conv2d without bias": (lambda f, x, w: f.conv2d(x, w, dilation=(1, 2)), [(2, 2, 5, 4), (3, 2, 3, 2)]),
    "conv2d same": (lambda f, x, w, b: f.conv2d(x, w, b, padding="same"), [(1, 2, 4, 4), (2, 2, 2, 2), (2,)]),
    "conv2d groups": (lambda f, x, w, b: f.conv2d(x, w, b, groups=2), [(2, 4, 3, 4), (6, 2, 2, 2), (6,)]),
    "conv2d unbatched": (lambda f, x, w, b: f.conv2d(x, w, b), [(2, 4, 5), (3, 2, 2, 2), (3,)]),
    "max_pool2d": (lambda f, x: f.max_pool2d(x, (3, 2), 2, 1, ceil_mode=True), [(2, 2, 5, 6)]),
    "max_pool2d unbatched": (lambda f, x: f.max_pool2d(x, 2), [(2, 4, 5)]),
    "linear": (lambda f, x, w, b: f.linear(x, w, b), [(3, 4), (5, 4), (5,)]),
    "linear without bias": (lambda f, x, w: f.linear(x, w), [(2, 3, 4), (5, 4)]),
    "linear of a vector": (lambda f, x, w, b: f.linear(x, w, b), [(4,), (5, 4), (5,)]),
    "relu": (lambda f, x: f.relu(x), [(2, 3, 4, 5)]),
    "conv2d_relu_max_pool2d": (
        lambda f, x, w, b: f.conv2d_relu_max_pool2d(
            x, w, b, (1, 2), padding=1, pool_size=(3, 2), pool_stride=2
        ),
        [(2, 2, 5, 6), (3, 2, 3, 2), (3,)],
    ),
    "conv2d_relu_max_pool2d unbatched": (
        lambda f, x, w: f.conv2d_relu_max_pool2d(x, w, padding="same", groups=2),
        [(2, 4, 5), (2, 1, 2, 2)],
    ),
    "linear_relu": (lambda f, x, w, b: f.linear_relu(x, w, b), [(2, 3, 4), (5, 4), (5,)]),
    "linear_relu of a vector": (lambda f, x, w: f.linear_relu(x, w), [(4,), (5, 4)]),
    "relu inplace": (lambda f, x: f.relu(x * 2, inplace=True), [(3, 4)]),
}
BATCH = 3


def random(shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def check(transformed: Callable[[Any], Any]) -> None:
    """`transformed` takes lenet_ext.functional or native torch's functions."""
    torch.testing.assert_close(transformed(F), transformed(NATIVE))


def scalar(call: Call, functions: Any) -> Call:
    """A loss that is curved in every argument."""
    return lambda *tensors: call(functions, *tensors).pow(3).sum()


@pytest.mark.parametrize("name", CALLS)
def test_gradients(name: str) -> None:
    call, shapes = CALLS[name]
    tensors = random(shapes)
    every = tuple(range(len(shapes)))
    check(lambda f: grad(scalar(call, f), argnums=every)(*tensors))
    check(lambda f: vjp(lambda *t: call(f, *t), *tensors)[1](torch.ones_like(call(f, *tensors))))
    check(lambda f: jacrev(lambda *t: call(f, *t), argnums=every)(*tensors))
    check(lambda f: hessian(scalar(call, f), argnums=every)(*tensors))
    check(lambda f: jacrev(jacrev(scalar(call, f), argnums=every), argnums=every)(*tensors))


@pytest.mark.parametrize("name", CALLS)
def test_tangents(name: str) -> None:
    """All tangents at once, and each alone while the other arguments have none."""
    call, shapes = CALLS[name]
    tensors, tangents = random(shapes), random(shapes)
    check(lambda f: jvp(lambda *t: call(f, *t), tensors, tangents))
    for i in range(len(tensors)):

        def alone(f: Any, t: Tensor, i: int = i) -> Tensor:
            return call(f, *tensors[:i], t, *tensors[i + 1 :])

        check(lambda f, i=i, alone=alone: jvp(lambda t: alone(f, t), tensors[i : i + 1], tangents[i : i + 1]))
        check(lambda f, i=i, alone=alone: jacfwd(lambda t: alone(f, t).pow(2))(tensors[i]))
    every = tuple(range(len(shapes)))
    check(lambda f: jvp(grad(scalar(call, f), argnums=every), tensors, tangents))


@pytest.mark.parametrize("name", CALLS)
def test_vmap(name: str) -> None:
    """Every choice of batched arguments, batched in the first or the last dimension; values and gradients."""
    call, shapes = CALLS[name]
    every = tuple(range(len(shapes)))
    for mask in range(1, 2 ** len(shapes)):
        batched = [bool(mask >> i & 1) for i in every]
        for dim in (0, -1):
            shift = [(BATCH, *s) if dim == 0 else (*s, BATCH) for s in shapes]
            tensors = random(
                [long if b else short for long, short, b in zip(shift, shapes, batched, strict=True)]
            )
            in_dims = tuple(dim if b else None for b in batched)
            check(lambda f, d=in_dims, t=tensors: vmap(functools.partial(call, f), d)(*t))
            check(lambda f, d=in_dims, t=tensors: vmap(grad(scalar(call, f), argnums=every), d)(*t))


@pytest.mark.parametrize("name", CALLS)
def test_nested_transforms(name: str) -> None:
    """vmap in vmap, a gradient of a vmap, and second derivatives under vmap."""
    call, shapes = CALLS[name]
    tensors = random([(2, BATCH, *shape) for shape in shapes])
    every = tuple(range(len(shapes)))
    check(lambda f: vmap(vmap(lambda *t: call(f, *t)))(*tensors))
    check(lambda f: grad(lambda *t: vmap(vmap(scalar(call, f)))(*t).sum(), argnums=every)(*tensors))
    first = [t[0] for t in tensors]
    check(lambda f: vmap(jacfwd(grad(scalar(call, f))))(*first))
    check(lambda f: vmap(lambda *t: jvp(grad(scalar(call, f), argnums=every), t, t))(*first))


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "linear", "relu"])
def test_vmap_over_nothing(name: str) -> None:
    """The sizes of each member's result; native torch gives convolutions and pools a batch of 0 here."""
    call, shapes = CALLS[name]
    images, *others = random([(0, *shapes[0]), *shapes[1:]])
    in_dims = (0, *[None] * len(others))
    member = call(F, torch.zeros(shapes[0], dtype=torch.float64), *others)
    assert vmap(functools.partial(call, F), in_dims)(images, *others).shape == (0, *member.shape)
    assert vmap(grad(scalar(call, F)), in_dims)(images, *others).shape == images.shape


def test_vmap_over_nothing_of_stacks() -> None:
    tensors = random([(0, 3, 2, 4), (0, 3, 5, 4), (0, 3, 5)])
    check(lambda f: vmap(vmap(f.linear))(*tensors))
    check(lambda f: vmap(vmap(grad(lambda *t: f.linear(*t).sum(), argnums=(0, 1, 2))))(*tensors))


def test_vmap_of_indices() -> None:
    image = torch.randn(3, 2, 2, 6, 6)
    check(lambda f: vmap(lambda x: f.max_pool2d(x, 2, return_indices=True))(image))
    check(lambda f: vmap(lambda x: f.max_pool2d(x, 3, 1, return_indices=True), in_dims=2)(image))


def test_outer_autograd_sees_through() -> None:
    """A tensor that requires a gradient outside, used inside of transforms."""
    image = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    values = torch.randn(4, 2, 3, 3, dtype=torch.float64)

    def outer(functions: Any) -> Tensor:
        weight = values.clone().requires_grad_()
        inner = vmap(grad(lambda x: functions.conv2d(x, weight).pow(3).sum()))(image)
        inner.square().sum().backward()
        assert weight.grad is not None
        return weight.grad

    check(outer)


def lenets() -> tuple[torch.nn.Module, torch.nn.Module]:
    ours = lenet_ext.LeNet(in_channels=1, image_size=16).double()
    return ours, lenet_ext.revert(ours)


def test_per_sample_gradients_of_lenet() -> None:
    images, targets = torch.randn(4, 1, 16, 16, dtype=torch.float64), torch.tensor([1, 5, 9, 0])
    results = []
    for model in lenets():
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(parameters: dict[str, Tensor], image: Tensor, target: Tensor, model=model) -> Tensor:
            logits = functional_call(model, parameters, (image.unsqueeze(0),))
            return torch.nn.functional.cross_entropy(logits, target.unsqueeze(0))

        results.append(vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, targets))
    torch.testing.assert_close(*results)


def test_ensemble_of_lenets() -> None:
    """Stacked parameters, one batch of images for all: weights batched, input not."""
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    models = [lenets()[0] for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    ours = vmap(lambda p, b: functional_call(models[0], (p, b), (images,)))(parameters, buffers)
    torch.testing.assert_close(ours, torch.stack([model(images) for model in models]))


def test_forward_mode_over_modules() -> None:
    image, tangent = torch.randn(2, 2, 1, 16, 16, dtype=torch.float64)
    ours, theirs = (jvp(model, (image,), (tangent,)) for model in lenets())
    torch.testing.assert_close(ours, theirs)
