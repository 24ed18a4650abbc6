"""TrainStep against torch: the numbers of a step, and its epochs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.001, "nesterov": True},
]
NESTEROV = OPTIONS[-1]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, padding=1, bias=False)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(9 * 16, 12), nn.ReLU(), nn.Linear(12, 5)),
    )


def data(count: int, loss: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    images = torch.randn(count, 2, 10, 10, dtype=torch.float64).to(dtype)
    classes = torch.randint(5, (count,))
    return images, classes if loss == "cross_entropy" else F.one_hot(classes, 5).to(dtype) - 0.3


def fuse(model: nn.Module, **options: Any) -> lenet_ext.FusedNet:
    return lenet_ext.fuse(model, torch.zeros(1, 2, 10, 10, dtype=next(model.parameters()).dtype), **options)


def make(dtype: torch.dtype = torch.float64, **options: Any) -> TrainStep:
    return TrainStep(fuse(network().to(dtype)), **options)


class Native:
    """The same step with torch."""

    def __init__(self, model: nn.Module, loss: str = "cross_entropy", **options: Any) -> None:
        self.model, self.loss = model, getattr(F, {"mse": "mse_loss"}.get(loss, loss))
        self.optimizer = torch.optim.SGD(model.parameters(), **options)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def weights(module: nn.Module | TrainStep) -> list[Tensor]:
    model = module.fused if isinstance(module, TrainStep) else module
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_relative(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = torch.linalg.vector_norm(actual.double() - expected.double())
    assert actual.dtype == expected.dtype
    assert error <= tolerance * torch.linalg.vector_norm(expected.double())


def assert_equal_weights(first: TrainStep, second: TrainStep) -> None:
    assert all(map(torch.equal, weights(first), weights(second)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_thirty_steps(options: dict[str, Any], loss: str, dtype: torch.dtype) -> None:
    """With a learning rate that changes and batches of all sizes."""
    model = network().to(dtype)
    native = Native(copy.deepcopy(model), loss, **options)
    step = TrainStep(fuse(model), **options, loss=loss)
    images, targets = data(70, loss, dtype)
    for number in range(30):
        size = [1, 2, 3, 17, 33, 70][number % 6]
        for optimizer in (step.optimizer, native.optimizer):
            optimizer.param_groups[0]["lr"] = options["lr"] / (1 + number / 10)
        value, expected = step(images[:size], targets[:size]), native(images[:size], targets[:size])
        assert value.shape == ()
        assert_relative(value, expected, TOLERANCE[dtype])
    for actual, wanted in zip(weights(model), weights(native.model), strict=True):
        assert_relative(actual, wanted, TOLERANCE[dtype])


def test_bfloat16() -> None:
    """Computed in float32, stored in bfloat16: within a rounding of float32's step."""
    model = network().to(torch.bfloat16)
    native = Native(copy.deepcopy(model).float(), lr=0.1)
    step = TrainStep(fuse(model), lr=0.1)
    images, targets = data(33, "cross_entropy", torch.bfloat16)
    assert_relative(step(images, targets).float(), native(images.float(), targets), 2**-8)
    for actual, expected in zip(weights(step), weights(native.model), strict=True):
        assert_relative(actual.float(), expected, 2**-8)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float32, size) for size in (1e6, -1e8, 3e38)),
        *((torch.bfloat16, size) for size in (1e8, -3e38)),
        *((torch.float64, size) for size in (1e15, 1e300)),
    ],
)
def test_cross_entropy_of_large_logits(dtype: torch.dtype, size: float) -> None:
    """Which are equal: the loss is the logarithm of their number, however large they are."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False)).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
    images, labels = torch.full((4, 3), size, dtype=dtype), torch.tensor([0, 2, 1, 0])
    step = TrainStep(lenet_ext.fuse(model, images), lr=0)
    expected = torch.tensor(3, dtype=dtype).log()
    assert_relative(step(images, labels), expected, torch.finfo(dtype).eps)
    assert_relative(step.epoch(images, labels, 1), expected.expand(4), torch.finfo(dtype).eps)


def test_images_as_loss() -> None:
    """mse takes outputs of any shape."""
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 1)).double()
    native = Native(copy.deepcopy(model), "mse", lr=0.1)
    step = TrainStep(fuse(model), lr=0.1, loss="mse")
    images, _ = data(7, "mse", torch.float64)
    for _ in range(3):
        assert_relative(step(images, images), native(images, images), 1e-12)


def test_bytes() -> None:
    model = network()
    images = torch.randint(256, (9, 2, 10, 10), dtype=torch.uint8)
    labels = torch.arange(9) % 5
    native = Native(copy.deepcopy(model), lr=0.1)
    step = TrainStep(fuse(model, mean=0.4, std=[0.2, 0.3]), lr=0.1)
    deviation = torch.tensor([0.2, 0.3]).view(2, 1, 1)
    for _ in range(5):
        assert_relative(step(images, labels), native((images / 255 - 0.4) / deviation, labels), 2e-4)


def test_strided_images_and_targets() -> None:
    images, labels = data(17, "cross_entropy", torch.float64)
    dense, strided = make(lr=0.1), make(lr=0.1)
    dense(images, labels)
    wide = torch.stack((labels, -labels), dim=1)
    strided(images.contiguous(memory_format=torch.channels_last), wide[:, 0])
    assert_equal_weights(dense, strided)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 20, 50])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_epoch_is_its_steps(loss: str, batch_size: int, permuted: bool) -> None:
    images, targets = data(20, loss, torch.float32)
    order = torch.randint(20, (31,)) if permuted else torch.arange(20)
    steps, whole, followed = (make(torch.float32, loss=loss, **NESTEROV) for _ in range(3))
    expected = torch.stack([steps(images[part], targets[part]) for part in order.split(batch_size)])
    permutation = order if permuted else None
    losses = whole.epoch(images, targets, batch_size, permutation)
    assert torch.equal(losses, expected)
    assert_equal_weights(steps, whole)
    seen: list[Tensor] = []

    def callback(done: int, so_far: Tensor) -> None:
        assert done == len(so_far)
        seen.append(so_far)

    losses = followed.epoch(images, targets, batch_size, permutation, callback, callback_steps=3)
    assert torch.equal(losses, expected)
    assert [len(part) for part in seen] == [*range(3, len(expected), 3), len(expected)]
    assert all(torch.equal(part, expected[: len(part)]) for part in seen)
    assert_equal_weights(steps, followed)


def test_empty_epoch() -> None:
    step = make(torch.float32, **NESTEROV)
    before, (images, labels) = weights(step), data(3, "cross_entropy", torch.float32)
    none = torch.empty(0, dtype=torch.int64)
    for arguments in ((images[:0], labels[:0], 2), (images, labels, 2, none)):
        assert step.epoch(*arguments).shape == (0,)
        assert step.epoch(*arguments, callback=print).shape == (0,)
    assert not step.optimizer.state  # or the next step would not be the first
    assert all(map(torch.equal, before, weights(step)))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threads(dtype: torch.dtype) -> None:
    """Bitwise the same for every number of threads, and from call to call."""
    torch.manual_seed(0)
    images, labels = torch.randn(131, 3, 32, 32).to(dtype), torch.randint(10, (131,))
    runs = []
    for threads in (1, 2, 3, 5, 1):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = lenet_ext.LeNet().to(dtype)
        step = TrainStep(lenet_ext.fuse(model, images[:1]), **NESTEROV)
        losses = [step(images, labels), step(images[:1], labels[:1]), step.epoch(images, labels, 50)]
        runs.append(losses + weights(step))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_autograd_sees_the_update() -> None:
    step = make(lr=0.1)
    images, labels = data(3, "cross_entropy", torch.float64)
    loss = step.fused(images).sum()
    step(images, labels)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            step(images, labels)


def test_state_made_in_inference_mode_is_the_optimizers_everywhere() -> None:
    """torch's own step writes into it later."""
    steps = [make(lr=0.1, momentum=0.9) for _ in range(2)]
    images, labels = data(3, "cross_entropy", torch.float64)
    for step, mode in zip(steps, (torch.no_grad, torch.inference_mode), strict=True):
        with mode():
            step(images, labels)
        F.cross_entropy(step.fused(images), labels).backward()
        step.optimizer.step()
    assert all(map(torch.equal, weights(steps[0]), weights(steps[1])))
