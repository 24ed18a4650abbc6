"""capture in every dtype, mode and from every example, and that it changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward, functional_net, images, layers, sequence
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lenet_ext
import lenet_ext.nn as lnn
from lenet_ext.engine.capture import capture
from lenet_ext.engine.layers import Activation, Linear

RELU = (Activation("relu"),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("modules", [torch.nn, lnn], ids=["torch", "lenet_ext"])
def test_dtypes(dtype: torch.dtype, modules: Any) -> None:
    example = torch.randn(1, 3, 32, 32)
    model = lenet_ext.LeNet(layers=modules)
    assert capture(model.to(dtype), example.to(dtype)) == capture(lenet_ext.LeNet(), example)


def test_meta_device() -> None:
    model = lenet_ext.LeNet(layers=torch.nn)
    expected = capture(model, torch.randn(1, 3, 32, 32))
    assert capture(model.to("meta"), torch.empty(1, 3, 32, 32, device="meta")) == expected


def test_fake_tensors() -> None:
    with FakeTensorMode():
        model, example = nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.randn(3, 4)
    assert layers(model, example) == [(Linear(), "0.weight", "0.bias"), RELU]


@pytest.mark.parametrize(
    "mode",
    [torch.enable_grad, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["grad", "no_grad", "inference_mode", "autocast"],
)
@pytest.mark.parametrize("modules", [torch.nn, lnn], ids=["torch", "lenet_ext"])
def test_modes(mode: Any, modules: Any) -> None:
    model = lenet_ext.LeNet(layers=modules)
    expected = capture(model, torch.randn(1, 3, 32, 32))
    with mode():
        assert capture(model, torch.randn(1, 3, 32, 32)) == expected


@pytest.mark.parametrize(
    "example",
    [
        images().requires_grad_(),
        nn.Parameter(images()),
        images(size=24)[:, :, ::2, ::2],
        images().to(memory_format=torch.channels_last),
        images(1).expand(4, -1, -1, -1),
    ],
    ids=["requires grad", "Parameter", "strided", "channels_last", "expanded"],
)
def test_examples(example: Tensor) -> None:
    assert capture(functional_net(F), example) == capture(functional_net(F), images())


def test_a_module_may_be_used_twice() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(block, nn.Linear(4, 4), block)
    shared, other = (Linear(), "0.0.weight", "0.0.bias"), (Linear(), "1.weight", "1.bias")
    assert layers(model, torch.randn(2, 4)) == [shared, RELU, other, shared, RELU]


def test_tied_parameters_have_one_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    expected = [(Linear(), "0.weight", "0.bias"), (Linear(), "0.weight", "1.bias")]
    assert layers(model, torch.randn(2, 4)) == expected


def test_further_arguments_may_have_defaults() -> None:
    class Options(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor, relu: bool = True) -> Tensor:
            return F.relu(x) if relu else x.exp()

    assert layers(Options(), torch.randn(2, 4)) == [RELU]


def test_frozen_parameters_and_training_mode() -> None:
    model = sequence()
    expected = capture(model, images())
    assert capture(model.requires_grad_(False), images()) == expected
    assert capture(model.eval(), images()) == expected


class Recorder(nn.Module):
    """Leaves traces of a call in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.calls, self.kept = 0, {}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept["input"] = self.hidden = x
        return self.fc(x)


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_changes_nothing() -> None:
    model = nn.Sequential(Recorder(), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 2))
    model[1].eval()
    model(torch.randn(3, 4)).sum().backward()
    example = torch.randn(1, 4, requires_grad=True)
    recorder = model[0]
    hidden, calls = recorder.hidden, recorder.calls
    before = [
        (p, p.data_ptr(), p._version, p.grad, p.grad.clone(), p.requires_grad) for p in model.parameters()
    ]
    values = [p.detach().clone() for p in model.parameters()]
    data, version = example.detach().clone(), example._version
    training = [module.training for module in model.modules()]
    state, python_state = torch.get_rng_state(), random.getstate()
    attributes = [dict(vars(m)) for m in model.modules()]

    captured = capture(model, example)

    assert [node.layer.kind for node in captured.network.nodes] == ["linear", "relu", "linear"]
    assert torch.equal(state, torch.get_rng_state())
    assert python_state == random.getstate()
    for (parameter, *old), new, value in zip(before, model.parameters(), values, strict=True):
        assert new is parameter
        pointer, parameter_version, grad, grad_value, requires_grad = old
        assert (new.data_ptr(), new._version, new.requires_grad) == (
            pointer,
            parameter_version,
            requires_grad,
        )
        assert new.grad is grad
        assert torch.equal(new.grad, grad_value)
        assert torch.equal(new, value)
    assert [module.training for module in model.modules()] == training
    for module, old_attributes in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == old_attributes.keys()
        assert all(vars(module)[key] is value for key, value in old_attributes.items())
    assert recorder.hidden is hidden
    assert recorder.kept == {"input": hidden}
    assert recorder.calls == calls
    assert example.shape == (1, 4)
    assert torch.equal(example, data)
    assert (example._version, example.requires_grad, example.grad) == (version, True, None)
    assert torch.is_grad_enabled()


def test_random_numbers_stay_the_same() -> None:
    seeded = Forward(lambda net, x: (torch.manual_seed(3), torch.rand(1), x.relu())[2])
    dropout = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    state = torch.get_rng_state()
    assert layers(seeded, torch.ones(2, 4)) == [RELU]
    assert capture(dropout, torch.ones(2, 4)).network.is_random
    assert dropout[2].num_batches_tracked == 0
    assert torch.equal(state, torch.get_rng_state())


def test_can_be_repeated() -> None:
    model = lenet_ext.LeNet()
    assert capture(model, torch.randn(1, 3, 32, 32)) == capture(model, torch.randn(7, 3, 32, 32))
