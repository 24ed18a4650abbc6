"""batch_norm of the engine: statistics of the batch over tiles, running ones, gradients, large means."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stages import assert_near, check, engine_pass, layers_pass, one
from torch import Tensor

from lenet_ext.engine.layers import Activation, BatchNorm

DTYPES = [torch.float32, torch.float64]
# One channel and one more or less than a vector; planes of one value, less than a vector, and many.
SHAPES = [(1,), (3,), (16,), (37,), (1, 7, 1), (3, 4, 4), (5, 3, 11), (17, 2, 2), (4, 28, 28)]


def layer(batch: bool = True, affine: bool = True, tracked: bool = False, momentum: float = 0.1) -> BatchNorm:
    return BatchNorm(batch, affine, tracked, 1e-5, momentum)


def random_values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def parameters_of(norm: BatchNorm, channels: int, dtype: torch.dtype) -> list[Tensor]:
    parameters = [random_values(channels, dtype=dtype), random_values(1 + channels, dtype=dtype)[1:]]
    running = [random_values(2 + channels, dtype=dtype)[2:], random_values(channels, dtype=dtype).abs() + 0.3]
    return parameters * norm.affine + running * norm.tracked


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_statistics(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for batch in (5, 33, 140):  # a single image per tile; tiles of unlike sizes; several in a chunk
        for affine in (False, True):
            norm = layer(affine=affine)
            x = random_values(batch, *shape, dtype=dtype) * 2 + 0.5
            # Few values of a channel leave but a small part of a gradient: its error counts from the whole.
            tolerance = 1e-4 if dtype == torch.float32 and batch * math.prod(shape[1:]) < 20 else None
            parameters = parameters_of(norm, shape[0], dtype)
            for network in (
                one(norm, parameters=len(parameters)),
                one(norm, Activation("relu"), parameters=len(parameters)),
            ):
                check(network, x, parameters, tolerance=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for affine in (False, True):
        norm = layer(batch=False, affine=affine, tracked=True)
        parameters = parameters_of(norm, shape[0], dtype)
        network = one(norm, Activation("relu"), parameters=len(parameters))
        check(network, random_values(9, *shape, dtype=dtype), parameters)
        assert (
            engine_pass(network, random_values(0, *shape, dtype=dtype), parameters).outputs[0].shape[0] == 0
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mean_of_10_000(shape: tuple[int, ...]) -> None:
    """float32 is as exact as at a mean of 0, given the same values: no digit is lost to the mean."""
    x = random_values(64, *shape) + 1e4
    network = one(layer(affine=False))
    grads = [random_values(64, *shape)]
    actual, expected = (run(network, x, [], grads) for run in (engine_pass, layers_pass))
    assert_near(actual.outputs[0], expected.outputs[0], "output", 1e-6)
    assert_near(actual.grad_images, expected.grad_images, "gradient", 4e-6)


@pytest.mark.parametrize("momentum", [0.1, 1.0, math.nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_updates(dtype: torch.dtype, momentum: float) -> None:
    norm = layer(tracked=True, momentum=momentum)
    network = one(norm, parameters=4)
    parameters = parameters_of(norm, 3, dtype)
    mean, variance = (value.double() for value in parameters[2:])
    count = torch.tensor(4)
    program = network.program()
    for step in range(3):
        x = random_values(20 + step, 3, 5, 4, dtype=dtype) + step
        factor = 1 / (5 + step) if math.isnan(momentum) else momentum
        F.batch_norm(x.double(), mean, variance, None, None, True, factor)
        _, saved, _ = torch.ops.lenet_ext.network_forward(x, parameters, program, None, None)
        torch.ops.lenet_ext.network_statistics(saved, x, parameters, [count], program, None)
        assert count == 5 + step
        assert_near(parameters[2], mean, "running mean")
        assert_near(parameters[3], variance, "running variance")


def test_the_same_for_every_number_of_threads() -> None:
    norm = layer()
    network, x = one(norm, Activation("relu"), parameters=2), random_values(140, 6, 9, 9)
    threads = torch.get_num_threads()
    try:
        passes = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            passes.append(engine_pass(network, x, parameters_of(norm, 6, torch.float32)))
    finally:
        torch.set_num_threads(threads)
    for other in passes[1:]:
        assert torch.equal(other.outputs[0], passes[0].outputs[0])
        assert torch.equal(other.grad_images, passes[0].grad_images)
        assert all(map(torch.equal, other.grad_parameters, passes[0].grad_parameters))


def test_nan_and_infinity_stay_in_their_channel() -> None:
    x = random_values(8, 3, 4, 4)
    x[2, 1, 0, 0], x[3, 2, 1, 1] = torch.nan, torch.inf
    output = engine_pass(one(layer(affine=False)), x).outputs[0]
    assert output[:, 0].isfinite().all()
    assert output[:, 1:].isnan().all()
