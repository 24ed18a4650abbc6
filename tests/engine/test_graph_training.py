"""TrainStep on networks of all kinds, in training mode, beside native torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward
from networks import NETWORKS, Example, images
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lenet_ext
from lenet_ext import TrainStep

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}
BATCHES = (5, 9, 34, 5)
# What of their outputs has no part in the first.
OTHERS = {"actor and critic": "critic.weight", "nested outputs": "b.weight"}


def first_output(module: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = tree_leaves(module(x))[0]
    return output


def targets_of(module: nn.Module, x: Tensor) -> Tensor:
    shape = first_output(copy.deepcopy(module), x).shape
    generator = torch.Generator().manual_seed(8)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


class ByAutograd:
    """The same step by loss.backward() and torch's optimizer."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float | None = None
    ) -> None:
        self.module, self.optimizer, self.max_grad_norm = module, optimizer, max_grad_norm

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.mse_loss(first_output(self.module, x), targets)
        loss.backward()
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.detach()


def made(
    model: nn.Module, example: Example, kind: str = "SGD", max_grad_norm: float | None = None
) -> tuple[TrainStep, ByAutograd]:
    """A step of a copy of `model`, and torch's of `model`; of one that is random of the fused network."""
    ours = lenet_ext.fuse(copy.deepcopy(model), images(example, 2))
    theirs = lenet_ext.fuse(copy.deepcopy(model), images(example, 2)) if example.is_random else model
    optimizers = [OPTIMIZERS[kind](list(module.parameters())) for module in (ours, theirs)]
    step = TrainStep(ours, optimizers[0], nn.MSELoss(), max_grad_norm=max_grad_norm)
    return step, ByAutograd(theirs, optimizers[1], max_grad_norm)


def assert_alike(step: TrainStep, native: ByAutograd, example: Example) -> None:
    """Four steps with batches of several sizes."""
    for number, batch in enumerate(BATCHES):
        x = images(example, batch, seed=number)
        targets, losses = targets_of(native.module, x), []
        for take in (step, native):
            torch.manual_seed(number)
            losses.append(take(x, targets))
        torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)
    # The gradient of torch's hardsigmoid is a sixth in float32. Adam's update of a gradient that is nothing
    # but rounding, as a bias's before a batch norm, is as large as any: no weight of these may be compared.
    rounded = any(isinstance(module, nn.Hardsigmoid) for module in native.module.modules())
    tolerance = 1e-6 if rounded else 1e-8
    torch.testing.assert_close(
        step.fused.state_dict(), native.module.state_dict(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in OTHERS])
def test_as_torch(name: str) -> None:
    """With running statistics and the numbers of batches."""
    example = NETWORKS[name]
    assert_alike(*made(example.build().double(), example), example)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "name",
    ["batch norm first, twice", "batch norm, cumulative", "shared weights", "dense", "softmax",
     "activation prelu of channels", "dropout and batch norm", "input used again"],
)  # fmt: skip
def test_optimizers_and_clipping(name: str, kind: str, max_grad_norm: float | None) -> None:
    example = NETWORKS[name]
    model = example.build().double()
    if kind == "Adam":
        for module in model.modules():  # whose gradient is nothing but rounding
            if isinstance(module, nn.Conv2d) and "batch norm" in name and module.bias is not None:
                module.bias.requires_grad_(False)
    assert_alike(*made(model, example, kind, max_grad_norm), example)


@pytest.mark.parametrize("name", ["residual", "u-net", "inception", "batch norm of features"])
def test_frozen_parameters(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().double()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 == 1)
    before = copy.deepcopy(model)
    step, native = made(model, example)
    assert_alike(step, native, example)
    for parameter, first in zip(step.fused.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, first) != parameter.requires_grad


def _same_modules(part: Callable[[], nn.Module]) -> nn.Sequential:
    """A layer that is called twice."""
    layer = part()
    return nn.Sequential(layer, nn.Tanh(), layer)


def _same_weight(part: Callable[[], nn.Module]) -> nn.Sequential:
    """Layers of their own that have one weight."""
    layers = [part(), part()]
    layers[1].weight = layers[0].weight
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


PARTS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(3, 3, 3, padding=1),
    "batch norm": lambda: nn.BatchNorm2d(3, momentum=None),
    "prelu": lambda: nn.PReLU(3),
    "linear": lambda: nn.Linear(6, 6),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make", [_same_modules, _same_weight])
@pytest.mark.parametrize("part", PARTS)
def test_shared_parameters(part: str, make: Callable[..., nn.Sequential], frozen: bool) -> None:
    """Those of one kind alone; the gradients of both places are added up before the step."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make(PARTS[part]), nn.Conv2d(3, 2, 3)).double()
    model[0].requires_grad_(not frozen)
    example = Example(lambda: model, (3, 6, 6))
    assert_alike(*made(model, example, "Adam" if part != "batch norm" else "SGD"), example)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("name", ["dropout", "dropout and batch norm", "residual", "batch norm, cumulative"])
def test_epoch_is_its_steps(name: str, permuted: bool) -> None:
    """Bit for bit, whatever dropout draws."""
    example = NETWORKS[name]
    single, whole = (made(example.build().double(), example)[0] for _ in range(2))
    x = images(example, 23)
    targets = targets_of(single.fused, x)
    order = torch.randint(len(x), (37,)) if permuted else torch.arange(len(x))
    torch.manual_seed(4)
    expected = torch.stack([single(x[part], targets[part]) for part in order.split(5)])
    state = torch.get_rng_state()
    torch.manual_seed(4)
    assert torch.equal(whole.epoch(x, targets, 5, order if permuted else None), expected)
    assert torch.equal(torch.get_rng_state(), state)
    for actual, wanted in zip(whole.fused.state_dict().values(), single.fused.state_dict().values(),
                              strict=True):  # fmt: skip
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_part_in_the_first_output_is_refused(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().double()
    step, native = made(model, example)
    x = images(example, 5)
    targets = targets_of(model, x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=f"{OTHERS[name]} has no part in the first output, which the loss"):
        step(x, targets)
    torch.testing.assert_close(step.fused.state_dict(), before, rtol=0, atol=0)
    head = OTHERS[name].split(".")[0]
    for module in (step.fused, native.module):
        module.get_submodule(head).requires_grad_(False)
    assert_alike(step, native, example)


def test_running_statistics_without_part_in_the_first_output_are_refused() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return (h := net.fc(x)), net.norm(h)

    model = Forward(forward, fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3, affine=False)).double()
    step = TrainStep(lenet_ext.fuse(model, torch.zeros(2, 4, dtype=torch.float64)), loss="mse", lr=0.1)
    x, targets = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"norm\.running_mean has no part in the first output"):
        step(x, targets)
    step.fused.eval()
    step(x, targets)


def test_parameters_of_another_mode_stay_as_they_are() -> None:
    """As in torch, where they have no gradient: no weight decay, no state."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.a(x) + net.b(x) if net.training else net.a(x)

    torch.manual_seed(1)
    model = Forward(forward, a=nn.Linear(4, 3), b=nn.Linear(4, 3)).double().eval()
    example = Example(lambda: model, (4,))
    for kind in OPTIMIZERS:
        for max_grad_norm in (None, 0.05):
            step, native = made(copy.deepcopy(model), example, kind, max_grad_norm)
            assert_alike(step, native, example)
            assert len(step.optimizer.state) == len(native.optimizer.state) == 2
            for module in (step.fused, native.module):
                module.train()
            assert_alike(step, native, example)
            assert len(step.optimizer.state) == 4


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("height", [0, 1])
def test_outputs_without_positions(height: int, soft: bool) -> None:
    """As torch: the mean of nothing is NaN."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((height, 2))).double()
    x = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    step = TrainStep(lenet_ext.fuse(model, x), lr=0.0)
    shape = (3, 2, height, 2) if soft else (3, height, 2)
    targets = torch.rand(shape, dtype=torch.float64) if soft else torch.zeros(shape, dtype=torch.int64)
    expected = F.cross_entropy(model(x), targets)
    torch.testing.assert_close(step(x, targets), expected.detach(), equal_nan=True)
