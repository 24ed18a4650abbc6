"""The fused network as a module: shared parameters, saving and copying, autograd's modes, wrong inputs."""

from __future__ import annotations

import copy
import io
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chains import assert_near, results
from torch import Tensor, nn

import lenet_ext


class Net(nn.Module):
    """As users write them, the modules in another order than the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(40, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))
        self.conv = nn.Conv2d(2, 10, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))


IMAGES = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def fused(model: Net) -> lenet_ext.FusedNet:
    return lenet_ext.fuse(model, IMAGES)


def named_results(module: nn.Module) -> dict[str, Tensor]:
    names = ["output", "images", *(name for name, _ in module.named_parameters())]
    return dict(zip(names, results(module, module, IMAGES), strict=True))


def assert_same_function(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = named_results(first), named_results(second)
    assert {name.removeprefix("module.") for name in ours} == theirs.keys()
    for name, actual in ours.items():
        assert_near(actual, theirs[name.removeprefix("module.")], 1e-5)


def test_same_parameters_same_names(model: Net, fused: nn.Module) -> None:
    ours, theirs = dict(fused.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert_same_function(fused, model)


def double(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.mul_(2)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "in place": double,
    "by data": lambda module: [setattr(p, "data", p.data + 1) for p in module.parameters()],
    "load_state_dict": lambda module: module.load_state_dict(Net().state_dict()),
    "bfloat16": lambda module: module.to(torch.bfloat16),
    "float64 and back": lambda module: module.double().float(),
    "channels_last": lambda module: module.to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("side", ["model", "fused"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_either_side_are_seen(model: Net, fused: nn.Module, change: str, side: str) -> None:
    before = fused(IMAGES)
    with torch.no_grad():
        CHANGES[change](model if side == "model" else fused)
    dtype = model.conv.weight.dtype
    assert fused.conv.weight.dtype == dtype
    expected = copy.deepcopy(model).float()(IMAGES.to(dtype).float())
    after = fused(IMAGES.to(dtype))
    assert_near(after, expected, 1e-5)
    assert torch.equal(before.to(dtype), after) == (change in ("float64 and back", "channels_last"))


def test_assigned_parameters(model: Net, fused: nn.Module) -> None:
    other = Net()
    fused.load_state_dict(other.state_dict(), assign=True)
    assert_near(fused(IMAGES), other(IMAGES), 1e-5)
    fused.conv.weight = nn.Parameter(torch.zeros_like(fused.conv.weight))
    with torch.no_grad():
        other.conv.weight.zero_()
    assert_near(fused(IMAGES), other(IMAGES), 1e-5)
    parameters = {name: 2 * value for name, value in other.named_parameters()}
    expected = torch.func.functional_call(other, parameters, IMAGES)
    assert_near(torch.func.functional_call(fused, parameters, IMAGES), expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_of_a_network_for_bytes(model: Net, dtype: torch.dtype) -> None:
    """mean and std are kept as they were given."""
    fused = lenet_ext.fuse(model, IMAGES, mean=0.3, std=0.7)
    images = torch.randint(256, (5, 2, 6, 6), dtype=torch.uint8)
    expected = copy.deepcopy(model).to(dtype).double()((images / 255 - 0.3).double() / 0.7)
    assert_near(fused.to(dtype)(images), expected, 1e-5)
    assert_near(fused.to(torch.bfloat16).to(dtype)(images), expected, 2e-2)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training(optimizer: type[torch.optim.Optimizer], model: Net) -> None:
    twin = copy.deepcopy(model.double())
    images, targets = IMAGES.double(), torch.arange(5) % 3
    fused = lenet_ext.fuse(model, images)
    for module in (fused, twin):
        rule = optimizer(module.parameters(), lr=0.01)
        for _ in range(10):
            rule.zero_grad()
            F.cross_entropy(module(images), targets).backward()
            rule.step()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(fused.get_parameter(name), parameter, rtol=1e-9, atol=1e-12)


def saved_and_loaded(fused: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_copies(model: Net, copied: Callable[[nn.Module], nn.Module]) -> None:
    fused = lenet_ext.fuse(model, IMAGES, mean=0.5, std=0.5)
    twin = copied(fused)
    images = torch.randint(256, (5, 2, 6, 6), dtype=torch.uint8)
    assert torch.equal(twin(images), fused(images))
    with torch.no_grad():
        double(fused)
    assert not torch.equal(twin(images), fused(images))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images), fused(images))


def test_copied_together_they_still_share(model: Net, fused: nn.Module) -> None:
    both = copy.deepcopy(nn.ModuleList([model, fused]))
    double(both.requires_grad_(False)[0])
    assert_near(both[1](IMAGES), both[0](IMAGES), 1e-5)
    assert both[1].conv.weight is both[0].conv.weight


def test_state_dicts_fit_both_ways(model: Net, fused: nn.Module) -> None:
    other = Net()
    fused.load_state_dict(other.state_dict())
    assert_same_function(fused, other)
    third = Net()
    third.load_state_dict(fused.state_dict())
    assert_same_function(fused, third)


@pytest.mark.parametrize("frozen", ["conv.weight", "conv.bias", "head.0.weight", "head.3.bias"])
def test_frozen_parameters(model: Net, fused: nn.Module, frozen: str) -> None:
    model.get_parameter(frozen).requires_grad_(False)
    grads = {}
    for module in (fused, model):
        module(IMAGES).square().sum().backward()
        grads[module] = {name: parameter.grad for name, parameter in module.named_parameters()}
        module.zero_grad()
    assert grads[fused][frozen] is None
    for name, grad in grads[model].items():
        if name != frozen:
            assert_near(grads[fused][name], grad, 1e-5)


def test_gradient_of_the_input_alone(model: Net, fused: nn.Module) -> None:
    model.requires_grad_(False)
    assert not fused(IMAGES).requires_grad
    images = IMAGES.clone().requires_grad_()
    grads = [torch.autograd.grad(module(images).sum(), images)[0] for module in (fused, model)]
    assert_near(*grads, 1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(model: Net, fused: nn.Module, mode: Callable[[], object]) -> None:
    with mode():
        output = fused(IMAGES)
    assert not output.requires_grad
    assert torch.equal(output, fused(IMAGES).detach())


def test_one_node(fused: nn.Module) -> None:
    output = fused(IMAGES)
    assert all(type(node).__name__ == "AccumulateGrad" for node, _ in output.grad_fn.next_functions if node)


def test_parameters_changed_before_backward_are_noticed(fused: nn.Module) -> None:
    loss = fused(IMAGES).sum()
    with torch.no_grad():
        fused.conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_output_may_be_changed(model: Net, fused: nn.Module) -> None:
    for module in (fused, model):
        module(IMAGES).relu_().sum().backward(inputs=[module.conv.weight])
    double_grad, model.conv.weight.grad = model.conv.weight.grad, None
    model(IMAGES).relu().sum().backward()
    assert_near(double_grad, 2 * model.conv.weight.grad, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model: Net, fused: nn.Module, dtype: torch.dtype) -> None:
    """One rounding to the 16-bit type of inputs, weights and output: nearer to float32 than native torch."""
    exact = results(model, model, IMAGES)
    with torch.autocast("cpu", dtype):
        output = fused(IMAGES)
        assert output.dtype == dtype
        for actual, expected in zip(results(fused, model, IMAGES), exact, strict=True):
            assert actual.dtype == (dtype if expected is exact[0] else torch.float32)
            error = torch.linalg.vector_norm(actual.float() - expected)
            assert error < 4 * torch.finfo(dtype).eps * torch.linalg.vector_norm(expected)
    with torch.autocast("cpu", dtype):
        assert fused.double()(IMAGES.double()).dtype == torch.float64


def test_data_parallel(model: Net, fused: nn.Module, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert_same_function(nn.parallel.DistributedDataParallel(fused), model)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(5, 3, 6, 6),
            r"was fused for \(N, 2, 6, 6\), and may compute something else for \(5, 3, 6, 6\)",
        ),
        (torch.zeros(5, 2, 7, 8), r"was fused for \(N, 2, 6, 6\)"),
        (torch.zeros(5, 2, 1, 6), r"was fused for \(N, 2, 6, 6\)"),
        (torch.zeros(2, 6, 6), "conv2d needs images"),
        (torch.zeros(5, 72), "conv2d needs images"),
        (torch.zeros(5, 2, 6, 6, dtype=torch.float64), "images must be torch.float32 like head.0.weight"),
        (torch.zeros(5, 2, 6, 6, dtype=torch.int64), "images must be torch.float32 like head.0.weight"),
        (torch.zeros(5, 2, 6, 6, dtype=torch.uint8), "uint8 images need mean and std"),
        (torch.zeros(5, 2, 6, 6, device="meta"), "images must be on cpu like head.0.weight, got meta"),
    ],
    ids=str,
)
def test_wrong_inputs(fused: nn.Module, images: Tensor, message: str) -> None:
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), pytest.raises(RuntimeError, match=message):
            fused(images)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, None, "belong together"),
        (None, 0.5, "belong together"),
        (
            [0.1, 0.2, 0.3],
            1.0,
            r"mean must be one number, or one for each of 2 channels, got \[0.1, 0.2, 0.3\]",
        ),
        (0.5, [], "std must be one number"),
        (0.5, 0.0, "std must be positive"),
        (0.5, [1.0, -1.0], "std must be positive"),
        (0.5, math.nan, "std must be positive"),
        (0.5, math.inf, "std must be positive and finite"),
        (math.nan, 0.5, "mean nan and std 0.5 give no finite pixels in float32"),
        ([0.5, -math.inf], 0.5, "no finite pixels"),
        (0.5, 1e-50, "no finite pixels"),
        (1e300, 0.5, "no finite pixels"),
    ],
)
def test_wrong_normalization(model: Net, mean: object, std: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lenet_ext.fuse(model, IMAGES, mean=mean, std=std)


def test_fused_under_inference_mode_trains_on_bytes(model: Net) -> None:
    with torch.inference_mode():
        fused = lenet_ext.fuse(model, IMAGES, mean=0.5, std=0.5)
    pixels = torch.randint(256, IMAGES.shape, dtype=torch.uint8)
    fused(pixels).sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())


def test_nothing_to_compute() -> None:
    with pytest.raises(RuntimeError, match="fuse: Sequential has no layer that computes anything"):
        lenet_ext.fuse(nn.Sequential(nn.Flatten(), nn.Identity()), IMAGES)


def test_submodules_may_have_any_name() -> None:
    names = ("program", "normalization", "parameter_names", "chain_parameters")
    layers = OrderedDict((name, nn.Linear(3, 3)) for name in names)
    model = nn.Sequential(layers)
    images = torch.randn(2, 3)
    fused = lenet_ext.fuse(model, images)
    assert_near(fused(images), model(images), 1e-5)
    assert fused.state_dict().keys() == model.state_dict().keys()
