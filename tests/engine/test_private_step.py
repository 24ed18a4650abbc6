"""TrainStep with max_sample_grad_norm (DP-SGD) beside the same by autograd, image by image, in float64."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, images
from optimizer_twins import EXAMPLES
from per_sample import ByHand, autograd_gradients, batch, network, norms_of, without_batch_statistics
from private_steps import NORM, make, same_bits, seeded, weights
from torch import nn
from torch.utils._pytree import tree_leaves

import lenet_ext
from lenet_ext import TrainStep


@pytest.mark.parametrize("kind", EXAMPLES)
def test_optimizers(kind: str) -> None:
    """Their numbers and their state over several steps, with batches around the sizes of tiles."""
    model = network()
    theirs = copy.deepcopy(model)
    optimizers = [getattr(torch.optim, kind)(m.parameters(), **EXAMPLES[kind]) for m in (model, theirs)]
    step = make(model, optimizer=optimizers[0], generator=seeded())
    native = ByHand(
        *(theirs, optimizers[1], F.cross_entropy),
        **{"max_norm": NORM, "noise": 0.7, "divisor": 16, "generator": seeded()},
    )
    for number, size in enumerate((5, 1, 17, 16, 33, 70)):
        x, targets = batch(size, seed=number)
        torch.testing.assert_close(step(x, targets), native(x, targets).mean())
    torch.testing.assert_close(weights(step), weights(theirs), rtol=1e-8, atol=1e-10)
    ours, others = step.state_dict()["state"], optimizers[1].state_dict()["state"]
    torch.testing.assert_close(ours, others, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count", [3, 33])
@pytest.mark.parametrize(
    "name",
    ["residual", "dense", "u-net", "inception", "shared weights", "dropout", "layer norm", "depthwise",
     "batch norm", "input used again", "activation prelu of channels", "functional dropout"],
)  # fmt: skip
def test_networks(name: str, count: int) -> None:
    example = NETWORKS[name]
    model = without_batch_statistics(example.build().double())
    ours, theirs = (lenet_ext.fuse(copy.deepcopy(model), images(example, 2)) for _ in range(2))
    module: nn.Module = theirs if example.is_random else model
    step = TrainStep(
        *(ours, torch.optim.SGD(ours.parameters(), lr=0.1), nn.MSELoss(reduction="sum")),
        **{"max_sample_grad_norm": 2.0, "noise_multiplier": 0.3, "generator": seeded()},
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    native = ByHand(
        module, optimizer, nn.MSELoss(reduction="sum"), max_norm=2.0, noise=0.3, generator=seeded()
    )
    for number in range(3):
        x = images(example, count, seed=number)
        shape = tree_leaves(copy.deepcopy(module)(images(example, 2)))[0].shape[1:]
        targets = torch.rand(count, *shape, dtype=torch.float64)
        torch.manual_seed(number)
        loss = step(x, targets)
        torch.testing.assert_close(loss, native(x, targets, seed=number).sum())
    torch.testing.assert_close(
        dict(step.fused.named_parameters()), dict(module.named_parameters()), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("max_norm", [1e-3, 0.3, 1e3])
def test_clipping_alone(max_norm: float) -> None:
    """Of all images, of some, of none."""
    model, (x, targets) = network(), batch(21)
    gradients = autograd_gradients(model, x, targets, F.cross_entropy)
    factors = (max_norm / (norms_of(gradients) + 1e-6)).clamp(max=1)
    pairs = zip(weights(model), gradients.values(), strict=True)
    expected = [p - torch.einsum("i,i...->...", factors, g) / 21 for p, g in pairs]
    step = make(model, max_sample_grad_norm=max_norm, noise_multiplier=0, expected_batch_size=21, lr=1.0)
    state = torch.get_rng_state()
    step(x, targets)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(weights(step), expected, rtol=1e-10, atol=1e-12)


def test_large_float32_gradients() -> None:
    """Of a pooled convolution, another one and a linear layer: their squares would overflow in float32."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, padding=1, bias=False)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(9 * 16, 5)),
    )
    exact = copy.deepcopy(model).double()
    step = make(model, noise_multiplier=0, lr=1.0)
    optimizer = torch.optim.SGD(exact.parameters(), lr=1.0)
    native = ByHand(exact, optimizer, F.cross_entropy, max_norm=NORM, noise=0, divisor=16)
    x, targets = batch(7, torch.float32)
    step(1e21 * x, targets), native(1e21 * x.double(), targets)
    for one, other in zip(weights(step), weights(exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_frozen_and_grouped_parameters() -> None:
    """A frozen parameter has no part in the norm, and gets no noise; the noise comes by the groups' order."""
    model = network()
    for name in ("0.bias", "6.weight"):
        model.get_parameter(name).requires_grad_(False)
    theirs = copy.deepcopy(model)

    def optimizer(m: nn.Sequential) -> torch.optim.Optimizer:
        first, second = m[8].parameters(), [*m[0].parameters(), *m[3].parameters(), *m[6].parameters()]
        return torch.optim.SGD([{"params": first, "lr": 0.3}, {"params": second}], lr=0.1)

    step = make(model, optimizer=optimizer(model), generator=seeded())
    native = ByHand(
        *(theirs, optimizer(theirs), F.cross_entropy),
        **{"max_norm": NORM, "noise": 0.7, "divisor": 16, "generator": seeded()},
    )
    for size in (9, 20):
        step(*batch(size)), native(*batch(size))
    torch.testing.assert_close(weights(step), weights(theirs), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    model = network(dtype)
    exact = copy.deepcopy(model).double()
    step = make(model, noise_multiplier=0, lr=1.0)
    optimizer = torch.optim.SGD(exact.parameters(), lr=1.0)
    native = ByHand(exact, optimizer, F.cross_entropy, max_norm=NORM, noise=0, divisor=16)
    x, targets = batch(19, dtype)
    step(x, targets), native(x.double(), targets)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for one, other in zip(weights(step), weights(exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("permuted", [False, True])
def test_epoch_is_its_steps(permuted: bool) -> None:
    """Bit for bit, the last batch being smaller."""
    x, targets = batch(53)
    order = torch.randint(53, (61,)) if permuted else torch.arange(53)
    single, whole = make(generator=seeded()), make(generator=seeded())
    expected = torch.stack([single(x[part], targets[part]) for part in order.split(16)])
    assert torch.equal(whole.epoch(x, targets, 16, order if permuted else None), expected)
    assert same_bits(single, whole)
    assert whole.epoch(x, targets, 16, torch.empty(0, dtype=torch.int64)).shape == (0,)


def wide(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """With a weight that is too large for the cache: tiles are larger there, and taken one by one."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 2100), nn.ReLU(), nn.Linear(2100, 5))
    ).to(dtype)


@pytest.mark.parametrize("count", [5, 70])
def test_wide_layers(count: int) -> None:
    model, (x, targets) = wide(), batch(count)
    theirs = copy.deepcopy(model)
    step = make(model, generator=seeded())
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    native = ByHand(
        *(theirs, optimizer, F.cross_entropy),
        **{"max_norm": NORM, "noise": 0.7, "divisor": 16, "generator": seeded()},
    )
    step(x, targets), native(x, targets)
    torch.testing.assert_close(weights(step), weights(theirs), rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("build", [network, wide])
def test_threads(build: Callable[[torch.dtype], nn.Module]) -> None:
    """Bitwise the same for every number of them."""
    x, targets = batch(300, torch.float32)
    steps = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        steps.append(make(build(torch.float32), generator=seeded(), momentum=0.9))
        for part in torch.arange(300).split(130):
            steps[-1](x[part], targets[part])
    assert same_bits(steps[0], steps[1])
    assert same_bits(steps[0], steps[2])


def test_a_nan_makes_all_nan() -> None:
    """As in Opacus: it is not clipped away in silence."""
    x, targets = batch(5)
    x[2, 0, 3, 3] = torch.nan
    step = make()
    assert step(x, targets).isnan()
    assert all(parameter.isnan().all() for parameter in weights(step))


def test_options_are_read_at_each_step() -> None:
    """A scheduler, and a loss whose reduction changes."""
    model = network()
    theirs = copy.deepcopy(model)
    loss = nn.CrossEntropyLoss()
    step = make(model, loss=loss, lr=0.5, noise_multiplier=0.0)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    native = ByHand(theirs, optimizer, F.cross_entropy, max_norm=NORM, noise=0.0, divisor=16)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in (step.optimizer, optimizer)]
    for number in range(4):
        loss.reduction, native.divisor = ("sum", 1.0) if number == 2 else ("mean", 16.0)
        step(*batch(9, seed=number)), native(*batch(9, seed=number))
        for scheduler in schedulers:
            scheduler.step()
    torch.testing.assert_close(weights(step), weights(theirs), rtol=1e-9, atol=1e-11)


def test_copies() -> None:
    step = make(momentum=0.9, generator=seeded())
    step(*batch(9))
    other = pickle.loads(pickle.dumps(step))
    assert type(other) is type(step)
    assert (other.max_sample_grad_norm, other.noise_multiplier, other.expected_batch_size) == (NORM, 0.7, 16)
    for one in (step, other):
        one(*batch(9))
    assert same_bits(step, other)
