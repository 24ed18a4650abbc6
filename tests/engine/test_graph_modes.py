"""The mode of each module decides what a fused network computes; what was not read is refused."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from capture_helpers import Forward
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.capture import capture

IMAGES = torch.randn(6, 2, 6, 6, dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten()),
        *(nn.Linear(48, 5), nn.BatchNorm1d(5)),
    ).double()


def assert_same(fused: lenet_ext.FusedNet, model: nn.Module) -> None:
    """Outputs and buffers after a forward."""
    torch.testing.assert_close(fused(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fused.state_dict(), model.state_dict(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_either_mode_may_be_handed_over(training: bool) -> None:
    model = network().train(training)
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    assert fused.training == training
    for mode in (training, not training, training):
        fused.train(mode)
        assert_same(fused, twin.train(mode))


def test_a_layer_frozen_in_eval_mode_stays_so() -> None:
    model = network().train()
    model[1].eval()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    assert_same(fused, twin)
    assert model[1].num_batches_tracked == 0
    assert model[3].num_batches_tracked == 1
    # All in training mode, all in eval mode, and again as they were.
    assert_same(fused.train(), twin.train())
    assert_same(fused.eval(), twin.eval())
    for module in (model, twin):
        module.train()[1].eval()
    assert_same(fused.train(False), twin.eval())


def test_modes_that_were_not_read_are_refused() -> None:
    model = network().train()
    fused = lenet_ext.fuse(model, IMAGES)
    model[3].eval()
    with pytest.raises(RuntimeError, match='layer "3" is in eval mode, and the network was not read with'):
        fused(IMAGES)
    again = lenet_ext.fuse(model, IMAGES)
    assert_same(again, copy.deepcopy(model))


def branching(net: Forward, x: Tensor) -> Tensor:
    x = net.conv(x)
    return x.sin() if net.training else x.relu()


@pytest.mark.parametrize("training", [True, False])
def test_a_mode_that_cannot_be_fused_is_refused_when_it_is_called(training: bool) -> None:
    model = Forward(branching, conv=nn.Conv2d(2, 3, 3)).double().train(training)
    fused = lenet_ext.fuse(model, IMAGES).eval()
    torch.testing.assert_close(fused(IMAGES), model.eval()(IMAGES))
    fused.train()
    message = r"FusedNet: this mode cannot be fused: Forward\.forward \(aten\.sin\) is no layer"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            fused(IMAGES)
    torch.testing.assert_close(fused.eval()(IMAGES), model.eval()(IMAGES))


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    model[3].eval()
    before = {path: module.training for path, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    momenta = [module.momentum for module in model if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    lenet_ext.fuse(model, IMAGES)
    assert {path: module.training for path, module in model.named_modules()} == before
    assert all(torch.equal(value, state[path]) for path, value in model.state_dict().items())
    assert momenta == [0.1, 0.1, 0.1]


def test_buffers_are_those_of_the_modules() -> None:
    model = network().eval()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    assert_same(fused, twin)
    for module in (model, twin):
        module[1].running_mean = torch.full((3,), 0.25, dtype=torch.float64)
        module[3].running_var.mul_(4.0)
        module[6] = copy.deepcopy(module[6])
        module[6].running_mean += 1.0
    assert_same(fused, twin)
    fused.load_state_dict(network().state_dict())
    assert_same(fused, network().eval())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fused: pickle.loads(pickle.dumps(fused))])
def test_copies(copied: Callable[[nn.Module], nn.Module]) -> None:
    fused = copied(lenet_ext.fuse(network(), IMAGES))
    assert_same(fused, network())


def test_two_forwards_before_a_backward() -> None:
    """The second changes running statistics, which the first's backward does not need."""
    model = network().train()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    for module in (fused, twin):
        (module(IMAGES).sum() + module(2 * IMAGES).square().sum()).backward()
    for actual, expected in zip(fused.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-9, atol=1e-9)


def test_second_derivatives_change_no_running_statistics() -> None:
    model = network().train()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    norms = []
    for module in (fused, twin):
        grads = torch.autograd.grad(
            module(IMAGES).square().sum(), list(module.parameters()), create_graph=True
        )
        sum(grad.square().sum() for grad in grads).backward()
        norms.append([parameter.grad for parameter in module.parameters()])
    torch.testing.assert_close(*norms, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(fused.state_dict(), twin.state_dict())
    assert model[1].num_batches_tracked == 1


def test_statistics_are_kept_without_gradients_too() -> None:
    model = network().train()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    with torch.no_grad():
        assert_same(fused, twin)
    assert model[1].num_batches_tracked == 1


def test_modes_that_nothing_looks_at_do_not_matter() -> None:
    """The mode of a class of the user's counts only where its forward asks for it."""
    model = Forward(
        lambda net, x: net.bn(net.conv(x)), conv=nn.Conv2d(2, 3, 3), bn=nn.BatchNorm2d(3)
    ).double()
    fused, twin = lenet_ext.fuse(model, IMAGES), copy.deepcopy(model)
    model.eval()  # not the fused network itself
    assert fused.training
    assert_same(fused, twin.eval())
    assert type(model) is Forward
    captured = capture(Forward(lambda net, x: net.conv(x), conv=nn.Conv2d(2, 3, 3)).double(), IMAGES)
    assert (captured.paths, len(captured.modes)) == ((), 1)
    asking = capture(Forward(branching, conv=nn.Conv2d(2, 3, 3)).double(), IMAGES)
    assert (asking.paths, len(asking.modes)) == (("",), 2)


def test_an_empty_batch_in_training_mode() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=None), nn.Flatten()).double()
    twin = copy.deepcopy(model)
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 5, 5, dtype=torch.float64))
    for count in (0, 4, 0):
        images = torch.randn(count, 1, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(fused(images), twin(images))
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_copies_warn_of_nothing() -> None:
    fused = lenet_ext.fuse(nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for copied in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            torch.testing.assert_close(copied(torch.ones(1, 3)), fused(torch.ones(1, 3)))


def test_the_modes_of_network_and_layers_apart() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.dropout(net.drop(net.fc(x)), training=net.training)

    model = Forward(forward, fc=nn.Linear(3, 2), drop=nn.Dropout(0.5))
    fused = lenet_ext.fuse(model, torch.randn(2, 3))
    model.eval()
    with pytest.raises(RuntimeError, match=r"it is in training mode itself, and its layers are not: call "):
        fused(torch.randn(2, 3))
    torch.testing.assert_close(fused.eval()(torch.ones(1, 3)), model(torch.ones(1, 3)))


class Frozen(nn.Module):
    """Whose batch norms stay in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.norm(self.conv(x)), 0.0, self.training))

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


@pytest.mark.parametrize("nested", [False, True])
def test_the_model_decides_on_modes(nested: bool) -> None:
    model = nn.Sequential(Frozen(), nn.ReLU()).double() if nested else Frozen().double()
    twin = copy.deepcopy(model)
    fused = lenet_ext.fuse(model, IMAGES)
    for used in (fused, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        own = copy.deepcopy(twin)
        for mode in (True, False, True):
            torch.testing.assert_close(used.train(mode)(IMAGES), own.train(mode)(IMAGES))
            assert [m.training for m in used.modules()] == [m.training for m in own.modules()]
        torch.testing.assert_close(dict(used.named_buffers()), dict(own.named_buffers()))
    assert list(model.modules())[1:] == list(fused.modules())[1:]
