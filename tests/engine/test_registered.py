"""What is registered in a fused network is what it uses: what happens to its modules is seen, or refused."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chains import assert_near
from test_fused_module import IMAGES, Net
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrizations, parametrize, prune

import lenet_ext
from lenet_ext import TrainStep

LABELS = torch.arange(5) % 3


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def fused(model: Net) -> lenet_ext.FusedNet:
    fused = lenet_ext.fuse(model, IMAGES)
    fused(IMAGES)  # what changes afterwards must be noticed
    return fused


def native_step(model: nn.Module, lr: float = 0.1) -> None:
    parameters = list(model.parameters())
    grads = torch.autograd.grad(F.cross_entropy(model(IMAGES), LABELS), parameters)
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter -= lr * grad


def assert_used(fused: lenet_ext.FusedNet, model: nn.Module) -> None:
    """Forward, backward and a training step have the parameters that `model` has."""
    twin = copy.deepcopy(model)
    assert fused.state_dict().keys() == twin.state_dict().keys()
    names = [name for name, _ in twin.named_parameters()]
    assert [name for name, _ in fused.named_parameters()] == names
    grads = []
    for module in (fused, twin):
        output = module(IMAGES)
        grads.append([output, *torch.autograd.grad(output.square().sum(), list(module.parameters()))])
    for actual, expected in zip(*grads, strict=True):
        assert_near(actual, expected, 1e-5)
    TrainStep(fused, lr=0.1)(IMAGES, LABELS)
    native_step(twin)
    for actual, expected in zip(fused.parameters(), twin.parameters(), strict=True):
        assert_near(actual, expected, 1e-5)


def fewer_classes(module: Any) -> None:
    module.head[3] = nn.Linear(9, 2)


REPLACED: dict[str, Callable[[Any], object]] = {
    "layer": lambda module: setattr(module, "conv", nn.Conv2d(2, 10, 3)),
    "layer of other sizes": lambda module: setattr(module.get_submodule("head"), "3", nn.Linear(9, 7)),
    "layer of ours": lambda module: setattr(module, "conv", lenet_ext.nn.Conv2d(2, 10, 3)),
    "part": lambda module: setattr(module, "head", copy.deepcopy(module.head).eval()),
    "parameter": lambda module: setattr(module.conv, "weight", nn.Parameter(torch.randn(10, 2, 3, 3))),
    "assigned state": lambda module: module.load_state_dict(Net().state_dict(), assign=True),
    "memory": lambda module: setattr(module.conv.weight, "data", torch.randn(10, 2, 3, 3)),
}


@pytest.mark.parametrize("side", ["model", "fused"])
@pytest.mark.parametrize("case", REPLACED)
def test_replaced(model: Net, fused: lenet_ext.FusedNet, case: str, side: str) -> None:
    """The other side has it too, and a step that was made before, unless its optimizer has the old one."""
    step = TrainStep(fused, lr=0.1)
    step(IMAGES, LABELS)
    REPLACED[case](model if side == "model" else fused)
    assert_used(fused, model)
    if case == "memory":
        step(IMAGES, LABELS)
    else:
        with pytest.raises(RuntimeError, match="parameters were replaced since the optimizer was made"):
            step(IMAGES, LABELS)


UNFIT: dict[str, tuple[Callable[[Any], object], str]] = {
    "linear for a convolution": (
        lambda module: setattr(module, "conv", nn.Linear(6, 4)),
        r'layer "conv" was a Conv2d\(.*\) and is a Linear',
    ),
    "other stride": (
        lambda module: setattr(module, "conv", nn.Conv2d(2, 10, 3, stride=2)),
        r"was a Conv2d\(stride=\(1, 1\)",
    ),
    "other padding": (
        lambda module: setattr(module, "conv", nn.Conv2d(2, 10, 3, padding=1)),
        r"padding=\(1, 1\)",
    ),
    "other groups": (lambda module: setattr(module, "conv", nn.Conv2d(2, 10, 3, groups=2)), "groups=2"),
    "no bias": (lambda module: setattr(module.conv, "bias", None), "bias=False"),
    "other activation": (
        lambda module: module.head.__setitem__(1, nn.Tanh()),
        r"was a ReLU\(\) and is a Tanh",
    ),
    "one layer more": (lambda module: module.head.append(nn.ReLU()), r'layer "head.4" is new, a ReLU'),
    "one layer less": (lambda module: module.head.pop(3), 'layer "head.3" is gone'),
    "pruned": (
        lambda module: prune.l1_unstructured(module.conv, "weight", 0.5),
        'layer "conv" has hooks, .* pruning work by hooks',
    ),
    "weight_norm": (lambda module: nn.utils.weight_norm(module.conv), 'layer "conv" has hooks'),
    "spectral_norm": (lambda module: nn.utils.spectral_norm(module.head[0]), 'layer "head.0" has hooks'),
    "forward hook": (
        lambda module: module.conv.register_forward_hook(lambda *_: None),
        'layer "conv" has hooks',
    ),
    "backward hook": (
        lambda module: module.head.register_full_backward_hook(lambda *_: None),
        'layer "head" has hooks',
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's about weight_norm
@pytest.mark.parametrize("side", ["model", "fused"])
@pytest.mark.parametrize("case", UNFIT)
def test_refused_by_name(model: Net, fused: lenet_ext.FusedNet, case: str, side: str) -> None:
    step = TrainStep(fused, lr=0.1)
    step(IMAGES, LABELS)
    change, message = UNFIT[case]
    change(model if side == "model" else fused)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"(?s)FusedNet: .*{message}.*: call "):
            fused(IMAGES)
        with pytest.raises(RuntimeError, match=message):
            step(IMAGES, LABELS)
    assert all(map(torch.equal, before, model.parameters()))


def test_hooks_that_are_gone_do_not_matter(model: Net, fused: lenet_ext.FusedNet) -> None:
    handle = model.conv.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="has hooks"):
        fused(IMAGES)
    handle.remove()
    assert_used(fused, model)


def test_hooks_of_the_whole_are_called(fused: lenet_ext.FusedNet) -> None:
    seen: list[Tensor] = []
    fused.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert seen.append(fused(IMAGES)) is None
    assert seen[0] is seen[1]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(model: Net, fused: lenet_ext.FusedNet, norm: Callable[..., nn.Module]) -> None:
    """Their parameters are computed at every call; a training step cannot change them."""
    norm(model.conv)
    model.conv.eval()
    for _ in range(2):
        grads = []
        for module in (fused, model):
            output = module(IMAGES)
            grads.append([output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))])
        for actual, expected in zip(*grads, strict=True):
            assert_near(actual, expected, 1e-5)
        with torch.no_grad():
            next(model.conv.parametrizations.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match=r"conv\.weight is computed, no Parameter that can be changed"):
        TrainStep(fused, lr=0.1)(IMAGES, LABELS)
    parametrize.remove_parametrizations(model.conv, "weight")
    assert_used(fused, model)


def test_sharded_data_parallel(model: Net, fused: lenet_ext.FusedNet, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fused.conv = torch.distributed.fsdp.FullyShardedDataParallel(
            fused.conv, device_id=torch.device("cpu")
        )
        with pytest.raises(
            RuntimeError, match=r'layer "conv" was a Conv2d\(.* is a FullyShardedDataParallel'
        ):
            fused(IMAGES)
    finally:
        torch.distributed.destroy_process_group()


class Around(nn.Module):
    """A network that is more than the fused one in it."""

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x * 2) + 1


def exported(fused: nn.Module) -> nn.Module:
    return torch.export.export(Around(fused), (IMAGES,)).module()


def exported_strictly(fused: nn.Module) -> nn.Module:
    return torch.export.export(Around(fused), (IMAGES,), strict=True).module()


@pytest.mark.parametrize("export", [exported, exported_strictly, torch.compile], ids=lambda f: f.__name__)
def test_traces_leave_nothing_behind(model: Net, export: Callable[[nn.Module], Any]) -> None:
    fused = lenet_ext.fuse(model, IMAGES)
    before = fused(IMAGES)
    expected = fused(IMAGES) if export is torch.compile else Around(model)(IMAGES)
    assert_near(export(fused)(IMAGES), expected, 1e-5)
    after = fused(IMAGES)
    assert not isinstance(after, FakeTensor)
    assert torch.equal(before, after)
    assert_used(fused, model)


def test_replicas(model: Net, fused: lenet_ext.FusedNet) -> None:
    """As DataParallel makes them: modules without registered parameters, with tensors of their own."""
    replicas = [fused._replicate_for_data_parallel() for _ in range(2)]
    for number, replica in enumerate(replicas, 1):
        parts = {"": replica}
        for path, module in fused.named_modules():
            if not path:
                continue
            parts[path] = module._replicate_for_data_parallel()
            owner, _, name = path.rpartition(".")
            parts[owner]._modules[name] = parts[path]
        for path, parameter in fused.named_parameters():
            owner, _, name = path.rpartition(".")
            setattr(parts[owner], name, parameter * number)
    for number, replica in enumerate(replicas, 1):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(number)
        assert_near(replica(IMAGES), twin(IMAGES), 1e-5)
        (grad,) = torch.autograd.grad(replica(IMAGES).sum(), [model.conv.weight])
        (expected,) = torch.autograd.grad(twin(IMAGES).sum(), [twin.conv.weight])
        assert_near(grad, expected * number, 1e-5)
    assert torch.equal(fused(IMAGES), replicas[0](IMAGES))


def test_order_of_parameters(model: Net, fused: lenet_ext.FusedNet) -> None:
    """That of the model, not that of the calls: head before conv."""
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(fused.parameters()), vector)
    assert [name for name, _ in fused.named_parameters()] == [name for name, _ in model.named_parameters()]
    nn.utils.vector_to_parameters(vector * 2, fused.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), vector * 2)


def test_optimizer_states_of_the_twin() -> None:
    """Momenta of equal shapes are not mixed up, in either direction."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)))

    model = Crossed().double()
    twin, images, labels = copy.deepcopy(model), torch.randn(6, 4).double(), torch.arange(6) % 4
    native = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)

    def native_steps() -> None:
        for _ in range(3):
            native.zero_grad()
            F.cross_entropy(twin(images), labels).backward()
            native.step()

    native_steps()
    fused = lenet_ext.fuse(model, images)
    fused.load_state_dict(twin.state_dict())
    step = TrainStep(fused, lr=1.0)
    step.load_state_dict(native.state_dict())
    for _ in range(3):
        step(images, labels)
    native_steps()
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for (name, actual), expected in zip(
        step.state_dict()["state"].items(), native.state_dict()["state"].values(), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=str(name))


def test_fuse_in_threads() -> None:
    """torch.export patches nn.Module while it traces: the threads must not undo each other's patches."""
    call = nn.Module.__call__
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3):
                model = Net()
                assert_near(lenet_ext.fuse(model, IMAGES)(IMAGES), model(IMAGES), 1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert nn.Module.__call__ is call


def test_steps_leave_no_cycles_behind() -> None:
    """A fused network and its step are freed with the last reference, or by the collector."""
    import gc
    import weakref

    model = Net()
    fused = lenet_ext.fuse(model, IMAGES)
    step = TrainStep(fused, lr=0.1, momentum=0.9)
    step(IMAGES, LABELS)
    fused.callback = step  # a cycle that the collector must find its way through
    references = [weakref.ref(value) for value in (fused, step, model, model.conv.weight)]
    del model, fused, step
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
