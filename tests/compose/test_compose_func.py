"""Whole networks under torch.func against native torch, and how often the kernels are called for it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from twins import CLASSES, SHAPE, Calls, images, twins

import lenet_ext.functional as F
from lenet_ext.check import NATIVE

Parameters = dict[str, Tensor]
MEMBERS = 3


def loss_of(model: torch.nn.Module) -> Callable[[Parameters, Tensor], Tensor]:
    return lambda parameters, batch: functional_call(model, parameters, (batch,)).square().sum()


def parameters_of(model: torch.nn.Module) -> Parameters:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def per_image(model: torch.nn.Module) -> Callable[[Parameters, Tensor], Parameters]:
    """The gradients of the loss of a single image."""
    loss = loss_of(model)
    return grad(lambda parameters, image: loss(parameters, image.unsqueeze(0)))


def per_sample_gradients(model: torch.nn.Module, batch: Tensor) -> Parameters:
    return vmap(per_image(model), in_dims=(None, 0))(parameters_of(model), batch)


def ensembles() -> list[tuple[torch.nn.Module, Parameters]]:
    """Of ours and of the native one: a network, and the stacked parameters of several like it."""
    pairs = [twins() for _ in range(MEMBERS)]
    stacked = [stack_module_state(list(models))[0] for models in zip(*pairs, strict=True)]
    return [(copy.deepcopy(model), weights) for model, weights in zip(pairs[0], stacked, strict=True)]


def both(compute: Callable[[torch.nn.Module], Any]) -> None:
    """`compute` gives for our network what it gives for the native one."""
    torch.testing.assert_close(*(compute(model) for model in twins()))


def test_per_sample_gradients() -> None:
    batch = images()
    ours, theirs = (per_sample_gradients(model, batch) for model in twins())
    torch.testing.assert_close(ours, theirs)
    # Each image's are those of this image alone.
    model = twins()[0]
    alone = grad(loss_of(model))(parameters_of(model), batch[1:2])
    assert {name: g[1].shape for name, g in ours.items()} == {name: g.shape for name, g in alone.items()}


def test_ensemble_of_weights() -> None:
    """Outputs and gradients of networks with stacked weights, of the same images and each of its own."""
    shared, own = images(), torch.stack([images() for _ in range(MEMBERS)])
    results = []
    for model, weights in ensembles():
        call = vmap(lambda p, x, m=model: functional_call(m, p, (x,)), in_dims=(0, None))
        results.append((call(weights, shared), vmap(grad(loss_of(model)))(weights, own)))
    torch.testing.assert_close(*results)


def test_per_sample_gradients_of_an_ensemble() -> None:
    """vmap over weights of vmap over images of a gradient."""
    batch, results = images(), []
    for model, weights in ensembles():
        results.append(vmap(vmap(per_image(model), in_dims=(None, 0)), in_dims=(0, None))(weights, batch))
    torch.testing.assert_close(*results)


def test_jacobians_and_tangents() -> None:
    batch, tangent = images(2), images(2)
    both(lambda model: jvp(model, (batch,), (tangent,)))
    both(lambda model: jacrev(lambda p: functional_call(model, p, (batch,)))(parameters_of(model)))
    both(lambda model: hessian(lambda x: model(x).square().sum())(batch))
    # A ReLU in place stops it where parameters require gradients, natively too.
    both(lambda model: torch.func.linearize(model.requires_grad_(False), batch)[1](tangent))


def test_double_backward() -> None:
    """A gradient penalty on the images, trained by a plain backward()."""
    batch, results = images(), []
    for model in twins():
        x = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in model.parameters())])
    # The last bias does not reach the slope's own slope in either.
    assert [g is None for g in results[0]] == [g is None for g in results[1]]
    torch.testing.assert_close(*results)


BLOCKS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((2, 2, 6, 6), (4, 2, 3, 3), (4,))),
    "linear": (lambda x, w, b: F.linear(x, w, b), ((2, 6), (4, 6), (4,))),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), ((2, 2, 6, 6),)),
    "relu": (lambda x: F.relu(x), ((2, 6),)),
    "conv2d_relu_max_pool2d": (
        lambda x, w, b: F.conv2d_relu_max_pool2d(x, w, b),
        ((2, 2, 6, 6), (4, 2, 3, 3), (4,)),
    ),
    "linear_relu": (lambda x, w, b: F.linear_relu(x, w, b), ((2, 6), (4, 6), (4,))),
}


def calls(compute: Callable[..., Any], *tensors: Tensor) -> Counter[str]:
    with Calls() as called:
        compute(*tensors)
    return Counter(called.names)


@pytest.mark.parametrize(
    ("name", "batched"),
    [
        (name, batched)
        for name, (_, shapes) in BLOCKS.items()
        for batched in (("input", "parameters", "all") if len(shapes) > 1 else ("input",))
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_batching_rules_call_each_kernel_once(name: str, batched: str, depth: int) -> None:
    """As many calls for 7 * 5 members as for 2 * 2, forward and backward: there is no loop over them."""
    call, shapes = BLOCKS[name]
    with_dims = [batched in ("all", "input" if i == 0 else "parameters") for i in range(len(shapes))]
    every = tuple(range(len(shapes)))

    def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
        for _ in range(depth):
            function = vmap(function, in_dims=tuple(0 if dim else None for dim in with_dims))
        return function

    counts = []
    for sizes in ((2, 2), (7, 5)):
        lead = sizes[:depth]
        tensors = [
            torch.randn(*lead, *shape) if dim else torch.randn(shape)
            for shape, dim in zip(shapes, with_dims, strict=True)
        ]
        counts.append(
            (
                calls(mapped(call), *tensors),
                calls(mapped(grad(lambda *t: call(*t).square().sum(), argnums=every)), *tensors),
            )
        )
    assert counts[0] == counts[1]
    forward, both_ways = counts[0]
    assert forward
    assert set(forward.values()) == set(both_ways.values()) == {1}
    assert not any(called.startswith("aten::") for called in both_ways), "torch's kernels, not ours"


def test_per_sample_gradients_call_each_layer_once() -> None:
    """A network's per-sample gradients: one convolution per convolution, however many images."""
    model = twins()[0]
    counts = [calls(lambda x: per_sample_gradients(model, x), images(count)) for count in (2, 11)]
    assert counts[0] == counts[1]
    assert counts[0]["conv2d"] == 2
    assert counts[0]["max_pool2d"] == 1
    assert counts[0]["conv2d_weight_grad"] == 2


def test_chunks_and_other_out_dims() -> None:
    """vmap's own options."""
    batch = torch.randn(6, 2, *SHAPE, dtype=torch.float64)
    for options in ({"chunk_size": 4}, {"out_dims": 1}, {"randomness": "different"}):
        both(lambda model, o=options: vmap(model, **o)(batch))
    assert vmap(twins()[0], out_dims=2)(batch).shape == (2, CLASSES, 6)


def test_transform_inside_of_a_saved_graph() -> None:
    """Parameters that require gradients outside, per-sample losses inside: a loss of gradient norms."""
    batch, results = images(), []
    for model in twins():
        weights = dict(model.named_parameters())
        gradients = vmap(per_image(model), in_dims=(None, 0))(weights, batch)
        sum(g.square().sum() for g in gradients.values()).backward()
        results.append([weight.grad for weight in weights.values()])
    torch.testing.assert_close(*results)


def test_forward_mode_without_transforms() -> None:
    """Dual tensors through the functions, as torch.autograd.forward_ad makes them."""
    value, tangent = images(2), images(2)
    results = []
    for functions in (F, NATIVE):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(value, tangent)
            output = functions.max_pool2d(functions.relu(dual), 2)
            results.append(tuple(torch.autograd.forward_ad.unpack_dual(output)))
    torch.testing.assert_close(*results)
