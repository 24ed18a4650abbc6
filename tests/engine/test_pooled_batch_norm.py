"""batch_norm, then max_pool2d, then an activation: one stage, in which nothing of full size is kept."""

from __future__ import annotations

import copy

import pytest
import torch
from stages import check, engine_pass
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.layers import Activation, BatchNorm, Layer, MaxPool2d, Reshape
from lenet_ext.engine.network import Network

PAIRS = MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), False)
POOLS = [
    PAIRS,
    MaxPool2d((2, 2), (2, 2), (0, 0), (1, 1), True),
    MaxPool2d((3, 3), (2, 2), (1, 1), (1, 1), False),
    MaxPool2d((3, 2), (3, 2), (0, 0), (1, 1), False),
    MaxPool2d((1, 17), (1, 17), (0, 8), (1, 1), False),  # more than a byte counts
]
# Less than a vector, one and more; odd; larger than what stays in the first-level cache; many channels.
SHAPES = [(1, 2, 2), (3, 4, 6), (2, 7, 9), (5, 8, 32), (2, 6, 34), (3, 90, 70), (70, 8, 8)]


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def network(norm: BatchNorm, *behind: Layer) -> Network:
    count = 2 * norm.affine + 2 * norm.tracked
    return Network.chain("Test", (norm, tuple(range(count))), *((layer, ()) for layer in behind))


def parameters_of(norm: BatchNorm, channels: int, dtype: torch.dtype) -> list[Tensor]:
    own = [values(channels, dtype=dtype), values(channels, seed=1, dtype=dtype)]
    running = [values(channels, seed=2, dtype=dtype), values(channels, seed=3, dtype=dtype).abs() + 0.3]
    return own * norm.affine + running * norm.tracked


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stage(dtype: torch.dtype, shape: tuple[int, ...], batch: bool) -> None:
    for pool in POOLS:
        for affine, images in ((True, 6), (False, 3), (True, 21)):
            if (shape[1] < 3 and pool is not PAIRS) or (shape[1] > 50 and images > 6):
                continue
            norm = BatchNorm(batch, affine, not batch, 1e-5, 0.1)
            x = values(images, *shape, dtype=dtype) * 2 + 0.5
            for behind in ((pool,), (Activation("relu"), pool), (pool, Activation("tanh"))):
                check(
                    network(norm, *behind),
                    x,
                    parameters_of(norm, shape[0], dtype),
                    tolerance=tolerance(dtype),
                )


def tolerance(dtype: torch.dtype) -> float:
    """The gradient of few values is what is left of larger numbers."""
    return 2e-5 if dtype == torch.float32 else 1e-13


def test_a_reshape_between_norm_and_pool() -> None:
    """The pool's planes are not those of the norm's channels."""
    norm = BatchNorm(True, True, False, 1e-5, 0.1)
    behind = (Reshape((6, 4, 8)), PAIRS, Activation("relu"))
    for channels in (2, 6, 12):
        x = values(9, channels, 192 // channels)
        check(network(norm, *behind), x, parameters_of(norm, channels, torch.float64))


def test_nan_and_infinity_stay_in_their_channel() -> None:
    x = values(8, 3, 4, 4)
    x[2, 1, 0, 0], x[3, 2, 1, 1] = torch.nan, torch.inf
    results = engine_pass(network(BatchNorm(True, False, False, 1e-5, 0.1), PAIRS), x)
    for result in (results.outputs[0], results.grad_images):
        assert result[:, 0].isfinite().all()
        assert result[:, 1:].isnan().all()


def test_the_same_for_every_number_of_threads() -> None:
    norm = BatchNorm(True, True, False, 1e-5, 0.1)
    net, x = network(norm, PAIRS, Activation("relu")), values(140, 6, 10, 12, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        passes = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            passes.append(engine_pass(net, x, parameters_of(norm, 6, torch.float32)))
    finally:
        torch.set_num_threads(threads)
    for other in passes[1:]:
        assert torch.equal(other.outputs[0], passes[0].outputs[0])
        assert torch.equal(other.grad_images, passes[0].grad_images)
        assert all(map(torch.equal, other.grad_parameters, passes[0].grad_parameters))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("images", [4, 37])
def test_training_steps(images: int, frozen: bool) -> None:
    """A norm that begins the last segment of a step, and one before it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 18, 3, padding=1), nn.BatchNorm2d(18), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(18 * 64, 5)),
    ).double()
    if frozen:
        model[0].requires_grad_(False)
    x, targets = values(images, 3, 32, 32), torch.arange(images) % 5
    twin, loss = copy.deepcopy(model), nn.CrossEntropyLoss()
    fused = lenet_ext.fuse(model, x).train()
    options = {"lr": 0.1, "momentum": 0.9}
    step = lenet_ext.TrainStep(fused, torch.optim.SGD(model.parameters(), **options), loss)
    optimizer = torch.optim.SGD(twin.parameters(), **options)
    for _ in range(3):
        optimizer.zero_grad()
        expected = loss(twin(x), targets)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, targets), expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-10)
