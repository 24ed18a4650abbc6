"""FusedEnsemble: derivatives of any order, torch.func, torch.compile, and the ends of what it takes."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from ensembles import MEMBERS, assert_same, members_of, together_and_alone
from strategies import normal
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

import lenet_ext
from lenet_ext import FusedEnsemble, fuse_ensemble
from lenet_ext.engine.capture import Captured, capture

SHAPE = (2, 5, 4)


def network() -> nn.Sequential:
    layers = (
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 3),
        nn.Dropout(0.4),
    )
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def known() -> Captured:
    return capture(network(), batch())


def batch(*lead: int) -> Tensor:
    return normal((*(lead or (4,)), *SHAPE), torch.float64, 2)


def made(known: Captured, count: int = MEMBERS, training: bool = False) -> FusedEnsemble:
    torch.manual_seed(0)
    models = [model.train(training) for model in members_of(network(), max(count, 1))]
    many, _ = together_and_alone(models, known)
    return many if count > 0 else fuse_ensemble(network().train(training), batch(), copies=0)


@pytest.mark.parametrize(("own", "training"), [*product([False, True], [False, True])])
def test_gradcheck(known: Captured, own: bool, training: bool) -> None:
    many = made(known, 2, training)
    names, tensors = zip(*many.named_parameters(), strict=True)
    x = batch(2, 3) if own else batch(3)

    def outputs(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(5)
        result: Tensor = functional_call(many, dict(zip(names, parameters, strict=True)), (x,))
        return result

    inputs = (x.requires_grad_(), *(tensor.detach().clone().requires_grad_() for tensor in tensors))
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


def test_transforms_as_of_stacked_modules(known: Captured) -> None:
    """functional_call with torch.func, beside vmap over the model itself."""
    models = [model.eval() for model in members_of(network())]
    many, _ = together_and_alone(models, known)
    parameters, buffers = stack_module_state(models)
    x, template = batch(), copy.deepcopy(models[0])

    def native(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        def one(own: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(template, (own, buffers), (x,))
            return result

        result: Tensor = vmap(one)(parameters, buffers)
        return result

    def ours(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(many, parameters, (x,))
        return result

    close = torch.testing.assert_close
    close(ours(parameters, x), native(parameters, x))
    for transform in (lambda f: grad(lambda p, x: f(p, x).square().sum()), jacrev, jacfwd):
        close(transform(ours)(parameters, x), transform(native)(parameters, x))
    batches = batch(6, 4)
    close(vmap(ours, (None, 0))(parameters, batches), vmap(native, (None, 0))(parameters, batches))
    tangents = {name: torch.ones_like(parameter) for name, parameter in parameters.items()}
    for function in (ours, native):
        results = jvp(lambda p, f=function: f(p, x), (parameters,), (tangents,))
        close(results, jvp(lambda p: native(p, x), (parameters,), (tangents,)))
    per_sample = vmap(grad(lambda p, one: ours(p, one[None]).square().sum()), (None, 0))
    native_per_sample = vmap(grad(lambda p, one: native(p, one[None]).square().sum()), (None, 0))
    close(per_sample(parameters, x), native_per_sample(parameters, x))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compile(known: Captured, backend: str, training: bool) -> None:
    """Of one that was never called before, in one graph; own images and shared ones."""
    torch._dynamo.reset()
    many, twin = made(known, 2, training), made(known, 2, training)
    compiled = torch.compile(many, backend=backend, fullgraph=True)
    for x in (batch(), batch(2, 4)):
        torch.manual_seed(1)
        actual = compiled(x)
        torch.manual_seed(1)
        expected = twin(x)
        torch.testing.assert_close(actual, expected)
        if backend == "aot_eager":
            actual.square().sum().backward()
            expected.square().sum().backward()
            for one, other in zip(many.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(dict(many.named_buffers()), dict(twin.named_buffers()))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("count", [0, 1])
def test_no_member_and_one(known: Captured, count: int, training: bool) -> None:
    many = made(known, count, training)
    assert len(many) == count
    for x in (batch(), batch(count, 3)):
        x.requires_grad_()
        output = many(x)
        assert output.shape == (count, len(x) if x.dim() == 4 else 3, 3)
        output.square().sum().backward()
        assert x.grad is not None
        assert x.grad.any() == (count == 1)
        for parameter in many.parameters():
            assert parameter.grad is not None
            assert parameter.grad.shape == parameter.shape
        with torch.no_grad():
            assert many(x).shape == output.shape
    assert many.get_buffer("1.num_batches_tracked").tolist() == [4 * training] * count
    assert many.state_dict().keys() == network().state_dict().keys()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_empty_batches(known: Captured, training: bool) -> None:
    many = made(known, training=training)
    for x in (batch(0), batch(MEMBERS, 0)):
        for wanted in (False, True):
            with torch.set_grad_enabled(wanted):
                assert many(x).shape == (MEMBERS, 0, 3)


def test_images_that_do_not_fit(known: Captured) -> None:
    many = made(known)
    sizes = r"\(N, 2, 5, 4\) for all members or \(3, N, 2, 5, 4\) for each its own"
    for bad in (batch()[0], batch(1, MEMBERS, 4), batch()[0, 0, 0, 0]):
        with pytest.raises(RuntimeError, match=f"FusedEnsemble: images must be {sizes}"):
            many(bad)
    with pytest.raises(RuntimeError, match="there are 3 members, but images are for 2 members"):
        many(batch(2, 4))
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor, got list"):
        many([1])
    for bad in (normal((4, 2, 6, 4), torch.float64, 0), normal((MEMBERS, 4, 2, 6, 4), torch.float64, 0)):
        with pytest.raises(RuntimeError, match=r"may compute something else|input features"):
            many(bad)


@pytest.mark.parametrize("wanted", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("members", [2, 5, 0])
def test_parameters_of_other_members(known: Captured, members: int, wanted: bool) -> None:
    """No member is left out, and none is made up."""
    many, x = made(known), batch()
    others = {
        name: torch.ones(members, *tensor.shape[1:]).double() for name, tensor in many.named_parameters()
    }
    with torch.set_grad_enabled(wanted):
        for tensor in others.values():
            tensor.requires_grad_(wanted)
        message = (
            rf"FusedEnsemble: 0.weight must be \(3, ...\), one for each member, got \({members}, 3, 2, 3, 3\)"
        )
        with pytest.raises(RuntimeError, match=message):
            functional_call(many, others, (x,))
        many.get_submodule("4").bias = nn.Parameter(torch.ones((), dtype=torch.float64))
        with pytest.raises(RuntimeError, match=r"4.bias must be \(3, ...\), one for each member, got \(\)"):
            many(x)


def test_layouts_of_images(known: Captured) -> None:
    many = made(known)
    x = batch(MEMBERS, 4)
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            expected = many(x)
            strided = x.permute(4, 3, 0, 2, 1).contiguous().permute(2, 4, 3, 1, 0)
            assert not strided.is_contiguous()
            assert_same(many(strided), expected)
            shared = many(x[0])
            assert_same(many(x[0].contiguous(memory_format=torch.channels_last)), shared)
            assert_same(many(x[0].expand(MEMBERS, -1, -1, -1, -1)), shared)


def test_an_ensemble_cannot_be_fused_again() -> None:
    many = fuse_ensemble(nn.Linear(4, 3), torch.ones(2, 4), copies=4)
    with pytest.raises(RuntimeError, match="fuse: "):
        lenet_ext.fuse(many, torch.ones(2, 4))
