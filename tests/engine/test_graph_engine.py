"""Networks of all kinds in the engine, beside the model: outputs, gradients, buffers, in both modes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import NETWORKS, Example, images
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

import lenet_ext
from lenet_ext.engine.operators import LAST_SEED, layer_by_layer

Case = tuple[Example, nn.Module, lenet_ext.FusedNet]


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    """A network, a copy of it, and the copy fused."""
    example = NETWORKS[request.param]
    model = example.build().double()
    twin = copy.deepcopy(model)
    return example, model, lenet_ext.fuse(twin, images(example, 2))


def described(fused: lenet_ext.FusedNet, x: Tensor) -> list[Tensor]:
    """The outputs layer by layer, with the seed that the next forward will draw."""
    state = torch.get_rng_state()
    seed = torch.randint(LAST_SEED, (1,))
    torch.set_rng_state(state)
    tensors = [t.detach().clone() for t in fused._checked_tensors(x)]
    return layer_by_layer(fused._network.program(), x, None, tensors, seed)


def with_gradients(module: nn.Module, x: Tensor, weights: list[Tensor]) -> tuple[list[Any], list[Tensor]]:
    """The leaves of what it returns, and the gradients of the input and all parameters."""
    x = x.clone().requires_grad_()
    leaves = tree_leaves(module(x))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    sums = [(tensor * weight).sum() for tensor, weight in zip(tensors, weights, strict=False)]
    inputs = [x, *module.parameters()]
    grads = torch.autograd.grad(sum(sums), inputs, materialize_grads=True, allow_unused=True)
    return leaves, list(grads)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_as_the_model(case: Case, training: bool) -> None:
    example, model, fused = case
    model.train(training)
    fused.train(training)
    if example.is_random and training:
        pytest.skip("see test_dropout_is_that_of_the_layers")
    for batch in (2, 7):
        x = images(example, batch)
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(model.eval()(x)) if isinstance(leaf, Tensor)]
        model.train(training)
        weights = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        expected, actual = (with_gradients(module, x, weights) for module in (model, fused))
        # The gradient of torch's hardsigmoid is a sixth in float32.
        rounded = any(isinstance(module, nn.Hardsigmoid) for module in model.modules())
        tolerance = 1e-7 if rounded else 1e-9
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(fused.state_dict(), model.state_dict(), rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            assert tree_structure(fused(x)) == tree_structure(model(x))
            torch.testing.assert_close(tree_leaves(fused(x)), tree_leaves(model(x)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, example in NETWORKS.items() if example.is_random])
def test_dropout_is_that_of_the_layers(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().double()
    fused, x = lenet_ext.fuse(model, images(example, 2)), images(example, 9)
    torch.manual_seed(4)
    expected = described(fused, x)[0]
    actual = fused(x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert not torch.equal(fused(x), actual)
    torch.manual_seed(4)
    assert torch.equal(fused(x), actual)  # repeatable
    inputs = [parameter for parameter in fused.parameters() if parameter.requires_grad]
    torch.manual_seed(4)
    first = torch.autograd.grad(fused(x).square().sum(), inputs)
    torch.manual_seed(4)
    second = torch.autograd.grad(fused(x).square().sum(), inputs, create_graph=True)  # layer by layer
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dropout", "batch norm", "conv1d", "residual"])
def test_single_images(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().double().eval()
    fused, x = lenet_ext.fuse(model, images(example, 2)), images(example, 1)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-10, atol=1e-10)
