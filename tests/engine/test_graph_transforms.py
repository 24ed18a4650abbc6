"""Graphs under torch.func, torch.compile and second derivatives, beside the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from networks import NETWORKS, images
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves

import lenet_ext

NAMES = ["batch norm", "dropout", "actor and critic", "nested outputs", "residual"]


def pair(name: str) -> tuple[lenet_ext.FusedNet, nn.Module, Tensor]:
    model = NETWORKS[name].build().double()
    x = images(NETWORKS[name], 4)
    return lenet_ext.fuse(copy.deepcopy(model), x), model, x


def total(output: Any) -> Tensor:
    """One number of all tensors that a network returns."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


def per_image(module: nn.Module, x: Tensor, randomness: str = "error") -> dict[str, Tensor]:
    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return total(functional_call(module, parameters, (image[None],)))

    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return vmap(grad(loss), in_dims=(None, 0), randomness=randomness)(parameters, x)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_each_image(name: str) -> None:
    fused, model, x = pair(name)
    torch.testing.assert_close(per_image(fused.eval(), x), per_image(model.eval(), x))


def test_training_mode_is_refused_as_by_torch() -> None:
    fused, model, x = pair("dropout")
    for module in (fused, model):
        with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
            per_image(module, x)
        for randomness in ("same", "different"):
            weight = next(iter(per_image(module, x[:1].expand(9, -1, -1, -1), randomness).values()))
            same = torch.allclose(weight, weight[:1].expand_as(weight), rtol=1e-9)
            assert same == (randomness == "same")
    fused, model, x = pair("batch norm")
    for module in (fused, model):
        with pytest.raises(RuntimeError, match="would mutate a captured Tensor"):
            per_image(module, x)


@pytest.fixture
def compiler() -> Iterator[None]:
    """One that has compiled nothing before: it compiles a function a few times only."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_compiled(name: str, training: bool) -> None:
    fused, model, x = pair(name)
    compiled = torch.compile(fused.train(training), backend="aot_eager", fullgraph=True)
    model.train(training)
    if training and NETWORKS[name].is_random:
        total(compiled(x)).backward()
        return
    torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(fused.state_dict(), model.state_dict())
    for module in (compiled, model):
        total(module(x)).backward()
    for actual, expected in zip(fused.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dropout"])
def test_second_derivatives(name: str) -> None:
    fused, model, x = pair(name)
    found = []
    for module in (fused, model):
        parameters = list(module.parameters())
        grads = torch.autograd.grad(total(module(x)), parameters, create_graph=True)
        norm = torch.stack([gradient.square().sum() for gradient in grads]).sum()
        found.append(torch.autograd.grad(norm, parameters))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "activation hardsigmoid"])
def test_gradgradcheck(name: str, training: bool) -> None:
    """Of all but hardsigmoid, whose second derivative torch itself does not have."""
    if training and NETWORKS[name].is_random:
        pytest.skip("each call draws another mask")
    torch.manual_seed(0)
    fused, _, x = pair(name)
    fused.train(training)

    def outputs(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(fused(x)) if isinstance(leaf, Tensor))

    assert gradgradcheck(outputs, (x[:2].clone().requires_grad_(), *fused.parameters()), fast_mode=True)
