"""per_sample_gradients beside autograd, one image after the other, and torch.func, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward
from graphs import Graph, graphs, native
from hypothesis import assume, given, settings
from networks import NETWORKS, images
from per_sample import assert_gradients, autograd_gradients, batch, network, without_batch_statistics
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves

import lenet_ext
from lenet_ext import per_sample_gradients
from lenet_ext.engine.layers import BatchNorm
from lenet_ext.engine.network import Network
from lenet_ext.engine.sample_operators import firsts, places_of, sample_gradients

# Whose batch norms have no running statistics.
REFUSED = ("batch norm, untracked", "batch norm of features")
COUNTS = (0, 1, 2, 3, 15, 17, 33, 67)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in REFUSED])
def test_as_autograd(name: str) -> None:
    """Networks of all kinds; the batches are cut into tiles of all sizes."""
    example = NETWORKS[name]
    model = without_batch_statistics(example.build().double())
    fused = lenet_ext.fuse(model, images(example, 2))
    shape = tree_leaves(copy.deepcopy(model)(images(example, 2)))[0].shape[1:]
    # The gradient of torch's hardsigmoid is a sixth in float32.
    tolerance = 1e-6 if any(isinstance(m, nn.Hardsigmoid) for m in model.modules()) else 1e-9
    for count in (0, 1, 3) if name.startswith("activation ") else COUNTS:
        x, targets = images(example, count), torch.rand(count, *shape, dtype=torch.float64)
        # Dropout's masks are the engine's own.
        expected = autograd_gradients(fused if example.is_random else model, x, targets, F.mse_loss, seed=7)
        torch.manual_seed(7)
        assert_gradients(per_sample_gradients(fused, x, targets, nn.MSELoss()), expected, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_as_torch_func(dtype: torch.dtype) -> None:
    """A LeNet of every dtype beside vmap(grad) in float64."""
    torch.manual_seed(0)
    model = lenet_ext.LeNet(layers=nn).to(torch.bfloat16).to(dtype)
    exact = copy.deepcopy(model).double()
    x, targets = torch.randn(21, 3, 32, 32, dtype=torch.float64).to(dtype), torch.randint(10, (21,))

    def loss(parameters: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(exact, parameters, image[None]), target[None])

    parameters = {name: p.detach() for name, p in exact.named_parameters()}
    expected = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x.double(), targets)
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets)
    assert {gradient.dtype for gradient in actual.values()} == {dtype}
    assert_gradients(actual, expected, TOLERANCE[dtype])


def of_first_output(graph: Graph) -> Graph:
    """With what its first output needs alone, and running statistics in batch norms."""
    network = Network("per_sample_gradients", tuple(graph.nodes), graph.outputs).first
    nodes = []
    for node in network.nodes:
        layer = node.layer
        if isinstance(layer, BatchNorm):
            assume(layer.tracked)
            layer = replace(layer, uses_batch_statistics=False)
        nodes.append(node._replace(layer=layer))
    return replace(graph, nodes=nodes, outputs=network.outputs, norms=[])


def graph_gradients(graph: Graph, x: Tensor, targets: Tensor, seed: Tensor) -> list[Tensor]:
    tensors = graph.tensors()
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    if not trained:
        return []
    output = native(graph, x, tensors, seed, [])[0]
    rows = []
    for i in range(len(x)):
        loss = F.mse_loss(output[i], targets[i])
        if not loss.requires_grad:
            rows.append([torch.zeros_like(tensor) for tensor in trained])
            continue
        rows.append(
            torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
        )
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


@settings(max_examples=100)
@given(graphs(most_layers=9))
def test_any_graph(graph: Graph) -> None:
    """Layers of all kinds in any order, parameters that several of them have, dropout."""
    graph = of_first_output(graph)
    x, seed, tensors = graph.images(min(graph.batch, 9)), torch.tensor([graph.seed]), graph.tensors()
    output = native(graph, x, tensors, seed, [])[0]
    targets = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    places = places_of(tensors, [tensor for tensor in tensors if tensor.requires_grad])
    actual = sample_gradients(x, targets, tensors, places, seed, graph.network.program("loss mse"), None)
    expected = graph_gradients(graph, x, targets, seed)
    assert len(firsts(places)) == len(actual) == len(expected)
    top = max((float(wanted.abs().max()) for wanted in expected), default=0.0)
    for one, other in zip(actual, expected, strict=True):
        # The network may lie at a kink; where it does, another sum of the same terms takes the other side.
        close = torch.isclose(one, other, rtol=1e-8, atol=1e-9 * top + 1e-12)
        assert one.shape == other.shape
        assert close.all() or not stable(graph, x, targets, seed, expected)


def stable(graph: Graph, x: Tensor, targets: Tensor, seed: Tensor, expected: list[Tensor]) -> bool:
    """Whether native torch's gradients stay where the images change in the last bits."""
    moved = graph_gradients(graph, x * (1 + 1e-13 * torch.randn_like(x)), targets, seed)
    return all(
        torch.allclose(one, other, rtol=1e-6, atol=1e-9) for one, other in zip(moved, expected, strict=True)
    )


def test_bytes() -> None:
    model = network()
    x = torch.randint(256, (18, 2, 10, 10), dtype=torch.uint8)
    _, targets = batch(18)
    fused = lenet_ext.fuse(model, torch.zeros(1, 2, 10, 10, dtype=torch.float64), mean=0.4, std=(0.3, 0.5))
    std = torch.tensor([0.3, 0.5]).view(1, 2, 1, 1)
    expected = autograd_gradients(model, (x / 255 - 0.4).double() / std, targets, F.cross_entropy)
    assert_gradients(per_sample_gradients(fused, x, targets), expected, 1e-6)  # scale and shift are float32


def test_wide_layers() -> None:
    """A layer too wide for the cache."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(200, 3000), nn.ReLU(), nn.Linear(3000, 4)).double()
    x, targets = batch(9)
    targets = targets % 4
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets)
    assert_gradients(actual, autograd_gradients(model, x, targets, F.cross_entropy), 1e-10)


@pytest.mark.parametrize("names", [("0.bias",), ("3.weight", "6.bias"), ("6.weight", "8.weight"), ()])
def test_parameters_that_require_a_gradient_alone(names: tuple[str, ...]) -> None:
    model, (x, targets) = network(), batch(18)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    actual = per_sample_gradients(lenet_ext.fuse(model, x[:1]), x, targets)
    assert tuple(actual) == names
    if names:
        assert_gradients(actual, autograd_gradients(model, x, targets, F.cross_entropy), 1e-10)


def test_parameters_without_a_part() -> None:
    """Of the second output, and of nothing: zeros."""
    model = Forward(
        lambda net, x: (net.a(x), net.b(x)), a=nn.Linear(3, 2), b=nn.Linear(3, 2), c=nn.Linear(1, 1)
    ).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    actual = per_sample_gradients(lenet_ext.fuse(model, x), x, torch.tensor([0, 1, 0, 1, 1]))
    assert list(actual) == [name for name, _ in model.named_parameters()]
    assert all((actual[name] == 0).all() == (name[0] in "bc") for name in actual)
    assert actual["c.weight"].shape == (5, 1, 1)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["residual", "dense", "shared weights", "dropout"])
def test_threads(name: str) -> None:
    example = NETWORKS[name]
    model = without_batch_statistics(example.build())
    x = images(example, 67, torch.float32)
    fused, found = lenet_ext.fuse(model, x[:2]), []
    targets = torch.rand_like(tree_leaves(fused(x))[0]).detach()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        found.append(per_sample_gradients(fused, x, targets, "mse"))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


def test_the_network_stays_as_it_is() -> None:
    model, (x, targets) = network(), batch(9)
    before, fused = copy.deepcopy(model.state_dict()), lenet_ext.fuse(model, x[:1])
    versions = [p._version for p in model.parameters()]
    per_sample_gradients(fused, x, targets)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [p._version for p in model.parameters()] == versions
    assert all(p.grad is None for p in model.parameters())
