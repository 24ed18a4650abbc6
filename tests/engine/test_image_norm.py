"""group_norm and layer_norm of the engine: every layout of groups and weights, large means, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from capture_helpers import Forward
from stages import assert_near, check, engine_pass, layers_pass, one
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.layers import Activation, GroupNorm, Layer, LayerNorm

DTYPES = [torch.float32, torch.float64]
# Channels and groups; planes of one value, less than a vector, a vector and many.
GROUPS = [
    *(((1,), 1), ((6,), 2), ((34,), 2), ((48,), 1), ((37,), 37)),
    *(((4, 1, 1), 2), ((6, 3, 5), 3), ((6, 3, 5), 6), ((2, 16), 1), ((9, 4, 4), 3), ((4, 28, 28), 2)),
]
# The last dimensions of these.
DIMS = [
    ((1,), 1),
    ((7,), 1),
    ((16,), 1),
    ((50,), 1),
    ((3, 33), 1),
    ((3, 5, 4), 1),
    ((3, 5, 4), 2),
    ((2, 9, 9), 3),
]


def random_values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def cases() -> list[tuple[Layer, tuple[int, ...], tuple[int, ...]]]:
    """Layers, the shape of an image and that of the weight."""
    groups = [(GroupNorm(count, 1e-5), shape, shape[:1]) for shape, count in GROUPS]
    dims = [(LayerNorm(count, 1e-3), shape, shape[-count:]) for shape, count in DIMS]
    return [*groups, *dims]


def parameters_of(count: int, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    return [random_values(i + 1, *shape, dtype=dtype)[i] for i in range(count)]


@pytest.mark.parametrize("case", cases(), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_torch(dtype: torch.dtype, case: tuple[Layer, tuple[int, ...], tuple[int, ...]]) -> None:
    layer, shape, weights = case
    size = math.prod(shape) // layer.integers[0] if isinstance(layer, GroupNorm) else math.prod(weights)
    # Few values of a group leave but a small part of a gradient: its error counts from the whole.
    tolerance = None if size >= 20 else 1e-3 if dtype == torch.float32 else 1e-11
    for batch in (1, 5, 33):  # as a single tile; a single image per tile; several
        x = random_values(batch, *shape, dtype=dtype) * 2 + 0.5
        for count in range(3):
            parameters = parameters_of(count, weights, dtype)
            check(one(layer, parameters=count), x, parameters, tolerance=tolerance)
        check(one(layer, Activation("relu"), parameters=2), x, parameters, tolerance=tolerance)


@pytest.mark.parametrize(
    "layer", [GroupNorm(2, 1e-5), GroupNorm(4, 1e-5), LayerNorm(1, 1e-5), LayerNorm(3, 1e-5)]
)
def test_a_mean_of_10_000(layer: Layer) -> None:
    """float32 is as exact as at a mean of 0, given the same values: no digit is lost to the mean."""
    x = random_values(16, 4, 28, 28) + 1e4
    grads = [random_values(16, 4, 28, 28)]
    actual, expected = (run(one(layer), x, [], grads) for run in (engine_pass, layers_pass))
    assert_near(actual.outputs[0], expected.outputs[0], "output", 1e-6)
    assert_near(actual.grad_images, expected.grad_images, "gradient", 4e-6)


@pytest.mark.parametrize("layer", [GroupNorm(3, 1e-5), LayerNorm(2, 1e-5)])
def test_the_same_for_every_number_of_threads(layer: Layer) -> None:
    x = random_values(140, 6, 9, 9)
    weights = (6,) if isinstance(layer, GroupNorm) else (9, 9)
    network = one(layer, Activation("relu"), parameters=2)
    threads = torch.get_num_threads()
    try:
        passes = []
        for count in (1, 2):
            torch.set_num_threads(count)
            passes.append(engine_pass(network, x, parameters_of(2, weights, torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(passes[0].outputs[0], passes[1].outputs[0])
    assert torch.equal(passes[0].grad_images, passes[1].grad_images)
    assert all(map(torch.equal, passes[0].grad_parameters, passes[1].grad_parameters))


def test_equal_values_become_the_bias() -> None:
    bias = random_values(6)
    for layer, shape in ((GroupNorm(2, 1e-5), (6, 4, 4)), (LayerNorm(1, 1e-5), (5, 6))):
        result = engine_pass(one(layer, parameters=2), torch.full((3, *shape), 0.1), [bias * 2, bias])
        broadcast = bias.view(6, 1, 1) if isinstance(layer, GroupNorm) else bias
        assert torch.equal(result.outputs[0], broadcast.expand(3, *shape))
        assert bool(result.grad_images.isfinite().all())


def test_nan_and_infinity_stay_in_their_group() -> None:
    x = random_values(8, 6, 4, 4)
    x[2, 1, 0, 0], x[3, 5, 1, 1] = torch.nan, torch.inf
    output = engine_pass(one(GroupNorm(3, 1e-5)), x).outputs[0].view(8, 3, -1)
    hit = torch.zeros(8, 3, dtype=torch.bool)
    hit[2, 0] = hit[3, 2] = True
    assert torch.equal(output.isnan().any(-1), hit)


def test_empty_batches_and_images() -> None:
    weights = parameters_of(2, (4,), torch.float32)
    for shape in ((0, 4, 3), (2, 4, 0)):
        result = engine_pass(one(GroupNorm(2, 1e-5), parameters=2), torch.empty(shape), weights)
        assert result.outputs[0].shape == shape
        assert not any(grad.any() for grad in result.grad_parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    for layer, weights in ((GroupNorm(2, 1e-5), (4,)), (LayerNorm(2, 1e-5), (5, 5))):
        x, parameters = random_values(6, 4, 5, 5, dtype=dtype), parameters_of(2, weights, dtype)
        check(one(layer, parameters=2), x, parameters, tolerance=1e-2)


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (GroupNorm(4, 1e-5), (6, 3), "cannot be parted in 4 groups of channels"),
        (GroupNorm(0, 1e-5), (6, 3), "cannot be parted in 0 groups"),
        (LayerNorm(3, 1e-5), (6, 3), "cannot be normalized over 3 dimensions"),
        (LayerNorm(0, 1e-5), (6, 3), "cannot be normalized over 0 dimensions"),
    ],
)
def test_refused(layer: Layer, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        engine_pass(one(layer), random_values(2, *shape))


def test_parameters_of_other_sizes_are_refused() -> None:
    x = random_values(2, 4, 5)
    with pytest.raises(RuntimeError, match=r"a parameter must have the sizes \[4\], got \[5\]"):
        engine_pass(one(GroupNorm(2, 1e-5), parameters=1), x, [random_values(5)])
    with pytest.raises(RuntimeError, match=r"a parameter must have the sizes \[4, 5\], got \[5\]"):
        engine_pass(one(LayerNorm(2, 1e-5), parameters=1), x, [random_values(5)])


def test_gradcheck() -> None:
    norms = nn.GroupNorm(2, 4), nn.SiLU(), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm((4, 3))
    model = nn.Sequential(*norms).double()
    x = random_values(2, 4, 3, dtype=torch.float64).requires_grad_()
    fused = lenet_ext.fuse(model, x.detach())
    inputs = (x, *fused.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: fused(x), inputs)
    assert torch.autograd.gradgradcheck(lambda x, *_: fused(x), inputs, atol=1e-4)


def test_layer_norm_of_the_batch_is_refused() -> None:
    model = Forward(lambda net, x: nn.functional.layer_norm(net.fc(x), (4, 3)), fc=nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="fuse: "):
        lenet_ext.fuse(model, torch.randn(4, 5))
