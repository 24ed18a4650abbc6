"""The losses of TrainStep with all their options, against torch's: losses, and parameters after a step."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
CLASSES = 5
RATE = 0.125  # which a product in bfloat16 does not round


class Networks(NamedTuple):
    """One network fused and as torch runs it, with parameters of their own."""

    fused: lenet_ext.FusedNet
    twin: nn.Module
    image: tuple[int, ...]

    def images(self, count: int) -> Tensor:
        dtype = next(self.twin.parameters()).dtype
        return torch.rand(count, *self.image, dtype=torch.float64).to(dtype)

    def to(self, dtype: torch.dtype) -> Networks:
        return Networks(self.fused.to(dtype), self.twin.to(dtype), self.image)


@cache
def _fused(map: bool, outputs: int) -> Networks:  # which takes most of the time of a test
    image = (2, 7, 5) if map else (3,)
    model = nn.Sequential(*[nn.Conv2d(2, outputs, 3)] if map else vector_layers(outputs)).double()
    fused = lenet_ext.fuse(model, torch.zeros(1, *image, dtype=torch.float64))
    return Networks(fused, copy.deepcopy(model), image)


def vector_layers(outputs: int) -> list[nn.Module]:
    return [nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, outputs)]


def _fresh(map: bool, outputs: int) -> Networks:
    networks = copy.deepcopy(_fused(map, outputs))
    for module in networks.twin:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return networks


def _with_twins_parameters(networks: Networks) -> Networks:
    networks.fused.load_state_dict(networks.twin.state_dict())
    return networks


def vector_network(outputs: int = CLASSES) -> Networks:
    """In float64, of images (N, 3), with outputs between 0 and 1."""
    networks = _fresh(False, outputs)
    with torch.no_grad():
        networks.twin[2].weight.mul_(0.2)
        networks.twin[2].bias.fill_(0.5)
    return _with_twins_parameters(networks)


def map_network(outputs: int = CLASSES) -> Networks:
    """In float64, of images (N, 2, 7, 5); outputs (N, outputs, 5, 3)."""
    return _with_twins_parameters(_fresh(True, outputs))


def constant_network(*outputs: float) -> Networks:
    """In float64, of images (N, 3)."""
    networks = vector_network(len(outputs))
    with torch.no_grad():
        networks.twin[2].weight.zero_()
        networks.twin[2].bias.copy_(torch.tensor(outputs))
    return _with_twins_parameters(networks)


def native_step(model: nn.Module, loss: Callable[..., Tensor], images: Tensor, targets: Tensor) -> Tensor:
    """With torch; of gradients without a momentum, so that the parameters tell them."""
    parameters = list(model.parameters())
    value = loss(model(images), targets)
    grads = torch.autograd.grad(value, parameters)
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter -= RATE * grad
    return value.detach()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def check(
    networks: Networks, loss: Any, images: Tensor, targets: Tensor, tolerance: float, steps: int = 2
) -> Tensor:
    """Steps of both, whose parameters are changed."""
    step = TrainStep(networks.fused, lr=RATE, loss=loss)
    for _ in range(steps):
        value, expected = step(images, targets), native_step(networks.twin, loss, images, targets)
        assert value.shape == ()
        assert_close(value, expected, tolerance * max(1, len(images)))
    assert_same_parameters(networks, tolerance)
    return value


def assert_same_parameters(networks: Networks, tolerance: float) -> None:
    for ours, theirs in zip(networks.fused.parameters(), networks.twin.parameters(), strict=True):
        assert_close(ours.to(theirs.dtype), theirs, tolerance)


def classes(*sizes: int, ignored: int = 2) -> Tensor:
    targets = torch.randint(CLASSES, sizes)
    targets.view(-1)[::4] = ignored
    return targets


WEIGHT = torch.tensor([0.5, 2.0, 0.25, 1.5, 0.0], dtype=torch.float64)
OF_CLASSES: dict[str, Callable[..., nn.Module]] = {
    "cross entropy": nn.CrossEntropyLoss,
    "weighted cross entropy": lambda **o: nn.CrossEntropyLoss(WEIGHT, ignore_index=2, **o),
    "smoothed cross entropy": lambda **o: nn.CrossEntropyLoss(label_smoothing=0.1, **o),
    "all of cross entropy": lambda **o: nn.CrossEntropyLoss(
        WEIGHT, ignore_index=-7, label_smoothing=0.25, **o
    ),
    "nll": nn.NLLLoss,
    "weighted nll": lambda **o: nn.NLLLoss(WEIGHT, ignore_index=-3, **o),
}
SOFT = [name for name in OF_CLASSES if "entropy" in name and name != "weighted cross entropy"]
OF_ELEMENTS: dict[str, Callable[..., nn.Module]] = {
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth l1": nn.SmoothL1Loss,
    "narrow smooth l1": lambda **o: nn.SmoothL1Loss(beta=0.2, **o),
    "smooth l1 without width": lambda **o: nn.SmoothL1Loss(beta=0.0, **o),
    "huber": nn.HuberLoss,
    "narrow huber": lambda **o: nn.HuberLoss(delta=0.2, **o),
    "bce": nn.BCELoss,
    "weighted bce": lambda **o: nn.BCELoss(WEIGHT, **o),
    "bce of logits": nn.BCEWithLogitsLoss,
    "weighted bce of logits": lambda **o: nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT.flip(0) + 0.5, **o),
}
both_reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])
all_sizes = pytest.mark.parametrize("count", [1, 2, 9, 70])
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


Network = Callable[..., Networks]


@both_dtypes
@all_sizes
@both_reductions
@pytest.mark.parametrize("name", OF_CLASSES)
def test_of_classes(name: str, reduction: str, count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(count)
    networks, loss = vector_network().to(dtype), OF_CLASSES[name](reduction=reduction).to(dtype)
    targets = classes(count, ignored=loss.ignore_index)
    if count < 4:
        targets[:] = 1
    check(networks, loss, networks.images(count), targets, TOLERANCE[dtype])


@both_dtypes
@both_reductions
@pytest.mark.parametrize("name", OF_CLASSES)
def test_of_classes_at_positions(name: str, reduction: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    networks, loss = map_network().to(dtype), OF_CLASSES[name](reduction=reduction).to(dtype)
    targets = classes(9, 5, 3, ignored=loss.ignore_index)
    check(networks, loss, networks.images(9), targets, 10 * TOLERANCE[dtype])


@both_dtypes
@both_reductions
@pytest.mark.parametrize("network", [vector_network, map_network])
@pytest.mark.parametrize("name", SOFT)
def test_of_probabilities(name: str, network: Network, reduction: str, dtype: torch.dtype) -> None:
    """Also where they do not sum to 1."""
    torch.manual_seed(0)
    networks, loss = network().to(dtype), OF_CLASSES[name](reduction=reduction).to(dtype)
    images = networks.images(9)
    targets = torch.rand_like(networks.twin(images).detach())
    check(networks, loss, images, targets, 10 * TOLERANCE[dtype])


@both_dtypes
@all_sizes
@both_reductions
@pytest.mark.parametrize("name", OF_ELEMENTS)
def test_of_elements(name: str, reduction: str, count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(count)
    networks, loss = vector_network().to(dtype), OF_ELEMENTS[name](reduction=reduction).to(dtype)
    targets = torch.rand(count, CLASSES, dtype=dtype)
    # A step may lead to outputs that are no probabilities.
    steps = 1 if isinstance(loss, nn.BCELoss) else 2
    check(networks, loss, networks.images(count), targets, TOLERANCE[dtype], steps)


@pytest.mark.parametrize("name", [name for name in OF_ELEMENTS if "weighted" not in name and name != "bce"])
def test_of_maps(name: str) -> None:
    torch.manual_seed(0)
    networks, targets = map_network(3), torch.rand(9, 3, 5, 3, dtype=torch.float64)
    check(networks, OF_ELEMENTS[name](), networks.images(9), targets, 1e-10)


@pytest.mark.parametrize("outputs", [1, 2, 8, 16, 17, 33])
@pytest.mark.parametrize("network", [vector_network, map_network])
def test_numbers_of_classes(network: Network, outputs: int) -> None:
    """Around the widths of vectors."""
    torch.manual_seed(0)
    networks = network(outputs)
    images = networks.images(5)
    shape = networks.twin(images).shape
    weight = torch.rand(outputs, dtype=torch.float64) + 0.1
    targets = torch.randint(outputs, (5, *shape[2:]))
    check(networks, nn.CrossEntropyLoss(weight, label_smoothing=0.1), images, targets, 1e-10)
    check(networks, nn.CrossEntropyLoss(weight), images, torch.rand(shape, dtype=torch.float64), 1e-10)
    check(networks, nn.NLLLoss(weight), images, targets, 1e-10)
    check(networks, nn.BCEWithLogitsLoss(), images, torch.rand(shape, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*OF_CLASSES, *OF_ELEMENTS])
def test_16_bits(name: str, dtype: torch.dtype) -> None:
    """Computed in float32: within a rounding of its step."""
    torch.manual_seed(0)
    networks, loss = vector_network().to(dtype), (OF_CLASSES | OF_ELEMENTS)[name]().to(dtype)
    images = networks.images(33)
    targets = classes(33) if name in OF_CLASSES else torch.rand(33, CLASSES).to(dtype)
    value = TrainStep(networks.fused, lr=RATE, loss=loss)(images, targets)
    networks.twin.float(), loss.float()
    wide = targets if name in OF_CLASSES else targets.float()
    expected = native_step(networks.twin, loss, images.float(), wide)
    assert value.dtype == dtype
    assert_close(value.float(), expected, torch.finfo(dtype).eps)
    assert_same_parameters(networks, torch.finfo(dtype).eps)


def drawn_loss(draw: Callable[..., Any], kind: str, shape: torch.Size, ignored: int) -> nn.Module:
    """For outputs of `shape`."""
    reduction = draw(st.sampled_from(["mean", "sum"]), label="reduction")
    weight = torch.rand(shape[1], dtype=torch.float64) if draw(st.booleans(), label="weighted") else None
    positive = st.floats(0.01, 3)
    if kind == "nll":
        return nn.NLLLoss(weight, ignore_index=ignored, reduction=reduction)
    if kind in ("hard", "soft"):
        smoothing = draw(st.floats(0, 1), label="label_smoothing")
        options = {"reduction": reduction, "label_smoothing": smoothing}
        return nn.CrossEntropyLoss(weight, ignore_index=ignored if kind == "hard" else -100, **options)
    if kind == "smooth l1":
        return nn.SmoothL1Loss(reduction=reduction, beta=draw(positive, label="beta"))
    if kind == "huber":
        return nn.HuberLoss(reduction=reduction, delta=draw(positive, label="delta"))
    each = torch.rand(shape[1:], dtype=torch.float64)
    rows = torch.rand(shape[0], *[1] * (len(shape) - 1), dtype=torch.float64)
    some = st.sampled_from([None, each, each[:1], rows])
    return nn.BCEWithLogitsLoss(
        draw(some, label="weight"), reduction=reduction, pos_weight=draw(some, label="pos_weight")
    )


@settings(max_examples=100)
@given(data=st.data())
def test_any_options(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    outputs = data.draw(st.sampled_from([1, 2, CLASSES, 17]), label="outputs")
    count = data.draw(st.integers(1, 40), label="count")
    networks = data.draw(st.sampled_from([vector_network, map_network]), label="network")(outputs)
    images = networks.images(count)
    shape = networks.twin(images).shape
    ignored = data.draw(st.sampled_from([-100, -1, 0, outputs - 1, outputs + 3]), label="ignore_index")
    kind = data.draw(st.sampled_from(["hard", "soft", "nll", "smooth l1", "huber", "logits"]), label="kind")
    loss = drawn_loss(data.draw, kind, shape, ignored)
    targets = torch.rand(shape, dtype=torch.float64)
    if kind in ("hard", "nll"):
        targets = torch.randint(outputs, (count, *shape[2:]))
        targets.view(-1)[:: data.draw(st.integers(1, 9), label="every")] = ignored
    check(networks, loss, images, targets, 1e-9)


@both_reductions
@pytest.mark.parametrize("name", OF_CLASSES)
def test_all_targets_ignored(name: str, reduction: str) -> None:
    """The mean over nothing is NaN, the sum 0; no parameter changes."""
    networks, loss = vector_network(), OF_CLASSES[name](reduction=reduction)
    before = copy.deepcopy(list(networks.fused.parameters()))
    value = check(networks, loss, networks.images(6), torch.full((6,), loss.ignore_index), 1e-12)
    assert value.isnan() if reduction == "mean" else value == 0
    assert all(map(torch.equal, networks.fused.parameters(), before))


def test_logarithms_of_zero() -> None:
    """Are -100 for BCELoss, and slopes stay finite."""
    networks, targets = constant_network(0, 1, 0, 1, 1e-30), torch.tensor([[1.0, 0, 0.5, 0.5, 0]]).double()
    images, bias = networks.images(1), networks.twin[2].bias
    value = TrainStep(networks.fused, lr=1e-12, loss=nn.BCELoss())(images, targets)
    expected = F.binary_cross_entropy(networks.twin(images), targets)
    assert_close(value, expected.detach(), 1e-12)
    change = (bias - dict(networks.fused.named_parameters())["2.bias"]) / 1e-12
    torch.testing.assert_close(change, torch.autograd.grad(expected, bias)[0], rtol=1e-3, atol=1e-3)


@both_dtypes
def test_large_logits(dtype: torch.dtype) -> None:
    networks = constant_network(1000, -1000, 80, -80, 0).to(dtype)
    images, targets = networks.images(3), torch.rand(3, 5, dtype=dtype)
    for loss in (nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss()):
        assert check(networks, loss, images, targets, 100 * TOLERANCE[dtype]).isfinite()


@pytest.mark.parametrize(
    "loss", [nn.L1Loss(), nn.MSELoss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss()], ids=str
)
def test_nan(loss: nn.Module) -> None:
    """As in torch, where the sign of a NaN is 0."""
    networks, targets = constant_network(1, 2, 3), torch.tensor([[1.0, math.nan, 2.5]] * 2).double()
    check(networks, loss, networks.images(2), targets, 1e-12)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(
    ("loss", "soft"),
    [
        (nn.CrossEntropyLoss(WEIGHT, ignore_index=2, label_smoothing=0.1), False),
        (nn.CrossEntropyLoss(WEIGHT), True),
        (nn.NLLLoss(ignore_index=0, reduction="sum"), False),
        (nn.BCELoss(WEIGHT), True),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), True),
    ],
    ids=str,
)
def test_epoch(loss: nn.Module, soft: bool, permuted: bool) -> None:
    """With a last batch that is smaller; with a momentum, whose first step is a call of its own."""
    torch.manual_seed(0)
    networks = vector_network()
    images = networks.images(38)
    targets = torch.rand(38, CLASSES, dtype=torch.float64) if soft else torch.randint(CLASSES, (38,))
    order = torch.randperm(38)[:31] if permuted else torch.arange(38)
    native = torch.optim.SGD(networks.twin.parameters(), lr=0.01, momentum=0.9)
    expected = []
    for batch in order.split(8):
        native.zero_grad()
        value = loss(networks.twin(images[batch]), targets[batch])
        value.backward()
        native.step()
        expected.append(value.detach())
    step = TrainStep(networks.fused, lr=0.01, momentum=0.9, loss=loss)
    losses = step.epoch(images, targets, 8, order if permuted else None)
    assert_close(losses, torch.stack(expected), 1e-10)
    assert_same_parameters(networks, 1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(WEIGHT.float(), ignore_index=2, label_smoothing=0.1),
        nn.NLLLoss(WEIGHT.float()),
        nn.BCEWithLogitsLoss(),
        nn.SmoothL1Loss(reduction="sum"),
    ],
    ids=str,
)
def test_threads(loss: nn.Module) -> None:
    """The same bits for every number of them."""
    torch.manual_seed(0)
    networks, results = map_network().to(torch.float32), []
    hard = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
    images = networks.images(1000)
    targets = torch.randint(CLASSES, (1000, 5, 3)) if hard else torch.rand(1000, CLASSES, 5, 3)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            fused = copy.deepcopy(networks.fused)
            results.append([TrainStep(fused, lr=0.1, loss=loss)(images, targets), *fused.parameters()])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


SHORT = [
    (F.cross_entropy, nn.CrossEntropyLoss()),
    (F.nll_loss, nn.NLLLoss()),
    (F.mse_loss, nn.MSELoss()),
    (F.l1_loss, nn.L1Loss()),
    (F.smooth_l1_loss, nn.SmoothL1Loss()),
    (F.huber_loss, nn.HuberLoss()),
    (F.binary_cross_entropy, nn.BCELoss()),
    (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss()),
    ("cross_entropy", nn.CrossEntropyLoss()),
    ("mse", nn.MSELoss()),
]


@pytest.mark.parametrize(("short", "loss"), SHORT, ids=lambda one: getattr(one, "__name__", str(one)))
def test_functions_and_names(short: Any, loss: nn.Module) -> None:
    """Are the modules with torch's defaults."""
    torch.manual_seed(0)
    networks = vector_network()
    images = networks.images(4)
    hard = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
    targets = torch.tensor([0, 4, -100, 1]) if hard else torch.rand(4, CLASSES, dtype=torch.float64)
    nets = networks.fused, copy.deepcopy(networks.fused)
    steps = [TrainStep(fused, lr=0.1, loss=one) for fused, one in zip(nets, (short, loss), strict=True)]
    assert torch.equal(*(step(images, targets) for step in steps))
    assert all(map(torch.equal, *(fused.parameters() for fused in nets)))


@pytest.mark.parametrize("shape", [(4, 1), (4, CLASSES), (1, CLASSES), (1, 1), (CLASSES,), (1,), ()])
@pytest.mark.parametrize("kind", [nn.BCELoss, nn.BCEWithLogitsLoss])
def test_weights_of_all_sizes(kind: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    networks, loss = vector_network(), kind(torch.rand(shape, dtype=torch.float64))
    check(networks, loss, networks.images(4), torch.rand(4, CLASSES, dtype=torch.float64), 1e-10)


def test_weights_of_each_image_of_a_batch() -> None:
    torch.manual_seed(0)
    networks, loss = vector_network(), nn.BCELoss(torch.rand(4, 1, dtype=torch.float64))
    images, targets = networks.images(12), torch.rand(12, CLASSES, dtype=torch.float64)
    step = TrainStep(networks.fused, lr=RATE, loss=loss)
    losses, batches = step.epoch(images, targets, 4), zip(images.split(4), targets.split(4), strict=True)
    assert_close(losses, torch.stack([native_step(networks.twin, loss, *batch) for batch in batches]), 1e-10)
    for count, size, wrong in ((11, 4, 3), (12, 12, 12)):
        with pytest.raises(RuntimeError, match=f"the loss's weight is for batches of 4 images, got {wrong}"):
            step.epoch(images[:count], targets[:count], size)


def test_module_is_read_at_each_step() -> None:
    """Its tensors changed in place or replaced, and its options."""
    torch.manual_seed(0)
    networks, loss = vector_network(), nn.CrossEntropyLoss(torch.rand(CLASSES, dtype=torch.float64))
    images, targets = networks.images(4), torch.tensor([0, 1, 2, 1])
    step = TrainStep(networks.fused, lr=0.0, loss=loss)

    def assert_followed() -> None:
        assert_close(step(images, targets), loss(networks.twin(images), targets).detach(), 1e-10)

    assert_followed()
    loss.weight.mul_(torch.rand(CLASSES))
    assert_followed()
    loss.load_state_dict({"weight": torch.rand(CLASSES, dtype=torch.float64)})
    assert_followed()
    changes = {"weight": None, "label_smoothing": 0.3, "ignore_index": 1, "reduction": "sum"}
    for name, value in [("weight", torch.rand(CLASSES, dtype=torch.float64)), *changes.items()]:
        setattr(loss, name, value)
        assert_followed()
    assert step.loss is loss


def test_spread_weight_is_read_at_each_step() -> None:
    networks, loss = vector_network(), nn.BCEWithLogitsLoss(torch.rand(4, 1, dtype=torch.float64))
    images, targets = networks.images(4), torch.rand(4, CLASSES, dtype=torch.float64)
    step = TrainStep(networks.fused, lr=0.0, loss=loss)
    for _ in range(3):
        assert_close(step(images, targets), loss(networks.twin(images), targets).detach(), 1e-10)
        loss.weight.mul_(0.5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))])
def test_copies(copied: Callable[[TrainStep], TrainStep]) -> None:
    networks, loss = vector_network(), nn.BCEWithLogitsLoss(torch.rand(4, 1, dtype=torch.float64))
    images, targets = networks.images(4), torch.rand(4, CLASSES, dtype=torch.float64)
    step = TrainStep(networks.fused, lr=0.1, loss=loss)
    step(images, targets)
    assert torch.equal(copied(step)(images, targets), step(images, targets))
