"""Children of a fork, as of a DataLoader, which do not have the pool of threads that their parent has."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from forked import in_a_child
from torch import Tensor, nn
from wild_tensors import of_kind

import lenet_ext
import lenet_ext.functional as F

LARGE = (16, 5, 64, 65)  # torch copies more than 32,768 elements on its pool
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
STRIDED = ("strided", "overlapping", "expanded", "transposed", "sliced", "sliced channels_last")


def network(dtype: torch.dtype) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(5, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(16)).to(
        dtype
    )


def as_lies(kind: str, values: Tensor) -> Tensor:
    """(N, C, H, W) in memory that is not dense."""
    if kind.startswith("sliced"):
        whole = torch.stack([values, values]).flatten(0, 1)
        if kind.endswith("channels_last"):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole[::2, :, :, 1:]
    return of_kind(kind, values, 0)


def calls(images: Tensor) -> dict[str, Callable[[], Tensor | tuple[Tensor, ...]]]:
    """Without autograd, whose engine refuses to run in a child of a process that used it."""
    dtype, operators = images.dtype, torch.ops.lenet_ext
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, 6, 5, generator=generator).to(dtype).permute(0, 3, 1, 2)[:, :, :, 1:4]
    wide = torch.randn(2, images.shape[3], 700, generator=generator).to(dtype)[0].t()
    vector = torch.randn(700, 2, generator=generator).to(dtype)[:, 0]
    pooled = F.max_pool2d(images.contiguous(), 2)
    _, argmax = operators.max_pool2d(images, 2, 2, 2, 2, 0, 0, 1, 1, False, True)
    windows = (*images.shape[2:], 2, 2, 2, 2, 0, 0, 1, 1)
    gradient = torch.stack([pooled, pooled], dim=-1)[..., 1]
    taps = torch.stack([argmax, argmax], dim=-1)[..., 1]
    geometry = (1, 1, 0, 0, 0, 0, 1, 1, 1)
    output = F.conv2d(images, weight)
    output = torch.stack([output, output], dim=-1)[..., 0]
    return {
        "relu": lambda: F.relu(images),
        "relu_grad": lambda: operators.relu_grad(images, images),
        "conv2d": lambda: F.conv2d(images, weight),
        "conv2d_grads": lambda: operators.conv2d_grads(output, images, weight, *geometry, True),
        "linear": lambda: F.linear(images, wide, vector),
        "linear_relu": lambda: F.linear_relu(images[0, 0], wide, vector),
        "max_pool2d": lambda: F.max_pool2d(images, 2, return_indices=True),
        "max_pool2d_input_grad": lambda: operators.max_pool2d_input_grad(gradient, taps, *windows),
        "conv2d_relu_max_pool2d": lambda: F.conv2d_relu_max_pool2d(images, weight),
    }


def as_bytes(results: Tensor | tuple[Tensor, ...]) -> list[bytes]:
    """By numpy, since a child must not have torch copy anything."""
    tensors = (results,) if isinstance(results, Tensor) else results
    return [(t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes() for t in tensors]


pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.mark.parametrize("kind", ["plain", *STRIDED])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_operators_compute_what_the_parent_does(dtype: torch.dtype, kind: str) -> None:
    """Of inputs of all layouts: those that are not dense are copied by the calling thread."""
    operators = calls(as_lies(kind, torch.randn(LARGE).to(dtype)))

    def all_of_them() -> dict[str, list[bytes]]:
        return {name: as_bytes(call()) for name, call in operators.items()}

    assert in_a_child(all_of_them) == all_of_them()


@pytest.mark.parametrize("kind", ["plain", "strided", "transposed", "sliced", "sliced channels_last"])
@torch.no_grad()
def test_relu_in_place(kind: str) -> None:
    """The result is copied back into the strides of the input."""
    images = as_lies(kind, torch.randn(LARGE))
    answer = in_a_child(lambda: as_bytes(F.relu(images, inplace=True)))
    assert answer == as_bytes(torch.relu(images))


@pytest.mark.parametrize("kind", ["plain", "strided", "transposed", "sliced channels_last"])
@torch.no_grad()
def test_fused_networks(kind: str) -> None:
    """Of floats and of bytes, forward and, by the operators themselves, backward; an empty batch as well."""
    model = network(torch.float32)
    images = as_lies(kind, torch.randn(LARGE))
    model(images)
    fused = lenet_ext.fuse(model, images)
    of_bytes = lenet_ext.fuse(model, images, mean=0.5, std=0.25)
    pixels = as_lies(kind, torch.randint(256, LARGE, dtype=torch.uint8))
    parameters, gradient = list(model.parameters()), torch.ones(16, 16)

    def results() -> list[list[bytes]]:
        found = [as_bytes(fused(images)), as_bytes(of_bytes(pixels))]
        for batch in (images, images[:0]):
            saved = torch.ops.lenet_ext.network_forward(
                batch, parameters, fused._network.program(), None, None
            )
            inputs = (
                [gradient[: len(batch)]],
                batch,
                parameters,
                *saved[1:],
                fused._network.program(),
                None,
                None,
            )
            found.append(
                as_bytes((*saved[0], *saved[1:], *torch.ops.lenet_ext.network_backward(*inputs, True, True)))
            )
        return found

    assert in_a_child(results) == results()


@pytest.mark.parametrize("kind", ["plain", "strided", "sliced channels_last"])
def test_frozen_networks(kind: str) -> None:
    """By plans of the parent's, and by new ones; of tensors and arrays."""
    model = network(torch.float32)
    images = as_lies(kind, torch.randn(LARGE))
    model(images)
    frozen = lenet_ext.fuse(model, images).freeze()
    expected = [as_bytes(frozen(images)), as_bytes(frozen(images[:3]))]
    again = copy.deepcopy(frozen)

    def results() -> list[list[bytes]]:
        arrays = [net(x.numpy()).tobytes() for net in (frozen, again) for x in (images, images[:3])]
        return [*(as_bytes(net(x)) for net in (frozen, again) for x in (images, images[:3])), arrays]

    answer = in_a_child(results)
    assert answer[:4] == [*expected, *expected]
    assert answer[4] == [one for (one,) in (*expected, *expected)]


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("epoch", [False, True])
def test_training(epoch: bool, steps_before: int) -> None:
    """Steps of strided batches leave the weights that they leave in the parent; state is made there too."""
    images, targets = as_lies("strided", torch.randn(LARGE)), torch.arange(16) % 4
    model = network(torch.float32)
    model(images)
    assert sum(parameter.numel() for parameter in model.parameters()) > 32768
    step = lenet_ext.TrainStep(lenet_ext.fuse(model, images), lr=0.1, momentum=0.9)
    for _ in range(steps_before):
        step(images, targets)

    def after_training() -> list[bytes]:
        if epoch:
            step.epoch(images, targets, batch_size=8)
        else:
            step(images, targets)
        return as_bytes(tuple(parameter.detach() for parameter in model.parameters()))

    assert in_a_child(after_training) == after_training()
