"""FusedEnsemble: its members beside the same networks alone, and beside torch.func's stacked modules."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from chains import Chain, chains
from ensembles import MEMBERS, assert_members, assert_same, members_of, of_chain, of_graph, together_and_alone
from graphs import Graph, graphs
from hypothesis import given, settings
from networks import NETWORKS, images
from strategies import normal
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lenet_ext
from lenet_ext import FusedEnsemble, fuse_ensemble

SHAPE = (2, 6, 5)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(36, 4)
    )


def batch(count: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal((count, *SHAPE), dtype, 1)


def outputs_of(result: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    torch.manual_seed(0)
    return members_of(network())


@pytest.fixture
def ensemble(models: list[nn.Module]) -> FusedEnsemble:
    return fuse_ensemble(models, batch())


def test_it_is_the_models_stacked(models: list[nn.Module], ensemble: FusedEnsemble) -> None:
    """As torch.func.stack_module_state has it, with the model's names in the model's order."""
    parameters, buffers = torch.func.stack_module_state(models)
    assert_same(dict(ensemble.named_parameters()), parameters)
    assert_same(dict(ensemble.named_buffers()), buffers)
    assert list(ensemble.state_dict()) == list(models[0].state_dict())
    assert [name for name, _ in ensemble.named_parameters()] == list(parameters)
    assert [name for name, _ in ensemble.named_modules()] == [name for name, _ in models[0].named_modules()]
    assert all(isinstance(parameter, nn.Parameter) for parameter in ensemble.parameters())
    assert len(ensemble) == MEMBERS
    assert "3 members, each of 6 parameters" in repr(ensemble)
    with torch.no_grad():
        ensemble.get_parameter("0.weight").zero_()
    assert models[0].get_parameter("0.weight").any()  # the models stay as they are


def test_members_and_state_dicts(models: list[nn.Module], ensemble: FusedEnsemble) -> None:
    for number, model in enumerate(models):
        assert_same(dict(ensemble.member(number)), dict(model.state_dict()))
        model_of_it = network()
        model_of_it.load_state_dict(ensemble.member(number - MEMBERS))
        assert_same(dict(model_of_it.state_dict()), dict(model.state_dict()))
    other = fuse_ensemble(network(), batch(), copies=MEMBERS)
    other.load_state_dict(ensemble.state_dict())
    assert_same(dict(other.state_dict()), dict(ensemble.state_dict()))
    before, other = other.member(0), fuse_ensemble(network(), batch(), copies=MEMBERS)
    other.load_member(-1, models[1].state_dict())
    assert_same(dict(other.member(2)), dict(models[1].state_dict()))
    other.member(2)["0.weight"].zero_()  # a copy
    assert_same(dict(other.member(2)), dict(models[1].state_dict()))
    other.load_member(0, {name: tensor.double() for name, tensor in before.items()})
    assert_same(dict(other.member(0)), dict(before))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"5.bias": None}, RuntimeError, "has no 5.bias"),
        ({"6.bias": torch.ones(4)}, RuntimeError, "has 6.bias, which the model has not"),
        ({"5.bias": torch.ones(3)}, RuntimeError, r"5.bias must be \(4,\), got \(3,\)"),
        ({"5.bias": [1.0] * 4}, RuntimeError, r"5.bias must be \(4,\), got list"),
        ({"5.bias": torch.ones(4, device="meta")}, NotImplementedError, "meta"),
    ],
)
def test_state_dicts_that_do_not_fit(
    ensemble: FusedEnsemble, change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    state = {name: torch.ones_like(tensor) for name, tensor in ensemble.member(1).items()} | change
    before = copy.deepcopy(ensemble.state_dict())
    with pytest.raises(error, match=message):
        ensemble.load_member(1, {name: tensor for name, tensor in state.items() if tensor is not None})
    assert_same(dict(ensemble.state_dict()), dict(before))


def test_members_that_there_are_not(ensemble: FusedEnsemble) -> None:
    for index in (MEMBERS, -MEMBERS - 1):
        with pytest.raises(IndexError, match=f"there is no member {index} of 3"):
            ensemble.member(index)
        with pytest.raises(IndexError):
            ensemble.load_member(index, ensemble.member(0))
    with pytest.raises(TypeError):
        ensemble.member(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="state_dict must be a dict, got Sequential"):
        ensemble.load_member(0, network())  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@settings(max_examples=60)
@given(chains())
def test_chains(own: bool, chain: Chain) -> None:
    """The same bits as each network alone, whether gradients are wanted or not."""
    many, alone = of_chain(chain)
    x = normal((*([MEMBERS] if own else []), *chain.shape), torch.float32, chain.seed)
    batches = x if own else [x] * MEMBERS
    with torch.no_grad():
        expected = torch.stack([network(one) for network, one in zip(alone, batches, strict=True)])
        assert_same(many(x), expected)
    with torch.inference_mode():
        assert_same(many(x).clone(), expected)
    x.requires_grad_()
    output = many(x)
    assert_same(output.detach(), expected)
    output.square().sum().backward()
    for number, network in enumerate(alone):
        one = batches[number].detach().requires_grad_()
        network(one).square().sum().backward()
        if own:
            assert_same(x.grad[number], one.grad)
        for actual, parameter in zip(many.parameters(), network.parameters(), strict=True):
            assert_same(actual.grad[number], parameter.grad)


@settings(max_examples=60)
@given(graphs())
def test_graphs(graph: Graph) -> None:
    """With seeds of dropout, running statistics and counts of batches."""
    many, alone = of_graph(graph)
    x, outputs = graph.images(graph.batch), []
    for network in (many, *alone):
        torch.manual_seed(1)
        if network is not many:  # each draws one after the other
            torch.randint(2**63 - 1, (len(outputs) - 1,))
        with torch.no_grad():
            outputs.append(network(x))
    assert_same(outputs[0], torch.stack(outputs[1:]))
    assert_members(many, alone)


@pytest.mark.parametrize(
    "name", ["nested outputs", "actor and critic", "shared weights", "batch norm first, twice"]
)
def test_networks(name: str) -> None:
    """Several outputs, and tied parameters, which stay so."""
    example = NETWORKS[name]
    x = images(example, 4)
    many, alone = together_and_alone(members_of(example.build().double()), x)
    expected = [outputs_of(network(x)) for network in alone]
    for actual, *outputs in zip(outputs_of(many(x)), *expected, strict=True):
        assert_same(actual, torch.stack(outputs))
    assert_members(many, alone)
    assert len(list(many.parameters())) == len(list(alone[0].parameters()))


def test_modes_and_flags(models: list[nn.Module], ensemble: FusedEnsemble) -> None:
    x = batch()
    ensemble.eval()
    assert_same(ensemble(x), ensemble(x))
    ensemble.train()
    torch.manual_seed(3)
    first = ensemble(x)
    assert not torch.equal(first, ensemble(x))
    assert ensemble.get_buffer("1.num_batches_tracked").tolist() == [2] * MEMBERS
    half = members_of(network())
    for model in half:
        model.get_submodule("0").requires_grad_(False)
        model.get_submodule("4").eval()
    partial = fuse_ensemble(half, x)
    assert [p.requires_grad for p in partial.parameters()] == [p.requires_grad for p in half[0].parameters()]
    assert [m.training for m in partial.modules()] == [m.training for m in half[0].modules()]
    partial(x).sum().backward()
    assert partial.get_parameter("0.weight").grad is None
    assert partial.get_parameter("5.weight").grad.shape == (MEMBERS, 4, 36)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(ensemble: FusedEnsemble, way: str) -> None:
    ensemble.eval()
    ensemble(batch())
    if way == "deepcopy":
        other = copy.deepcopy(ensemble)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(ensemble))
    else:
        file = io.BytesIO()
        torch.save(ensemble, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    expected = ensemble(batch()).detach()
    with torch.no_grad():
        ensemble.get_parameter("0.weight").zero_()
    assert_same(other(batch()).detach(), expected)
    assert len(other) == MEMBERS
    assert isinstance(other, FusedEnsemble)


def test_other_dtypes(ensemble: FusedEnsemble) -> None:
    ensemble.eval()
    expected = copy.deepcopy(ensemble).double()(batch().double())
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        actual = copy.deepcopy(ensemble).to(dtype)(batch().to(dtype))
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps)
    alone = lenet_ext.fuse(network().eval(), batch())
    alone.load_state_dict(ensemble.member(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(ensemble(batch())[1], alone(batch()))
        assert ensemble(batch()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match=r"images must be torch.float32 like 0.weight, got torch.float64"):
        ensemble(batch().double())


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_bytes(own: bool) -> None:
    shape = (MEMBERS, 5, *SHAPE) if own else (5, *SHAPE)
    x = torch.randint(256, shape, dtype=torch.uint8)
    many, alone = together_and_alone(members_of(network().eval()), batch(), mean=0.4, std=0.3)
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            outputs = [net(one) for net, one in zip(alone, x if own else [x] * MEMBERS, strict=True)]
            assert_same(many(x), torch.stack(outputs))
    with pytest.raises(RuntimeError, match="images must be uint8"):
        many(batch())
