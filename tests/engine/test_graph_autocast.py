"""Graphs under autocast, and with images in other layouts, beside the same in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from networks import NETWORKS, images
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.utils._pytree import tree_leaves

import lenet_ext

NAMES = ["batch norm", "residual", "u-net", "conv_transpose1d", "batch norm, cumulative", "squared"]


def outputs_and_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = tree_leaves(module(x))
    total = sum(output.double().square().sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(total, list(module.parameters()))]


def assert_near(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    top = max(float(tensor.norm()) for tensor in expected)
    for one, other in zip(actual, expected, strict=True):
        assert float((one.double() - other).norm()) <= tolerance * (float(other.norm()) + 0.1 * top)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str, training: bool) -> None:
    """16-bit inputs and outputs; parameters, their gradients and running statistics stay float32."""
    example = NETWORKS[name]
    exact = example.build().double().train(training)
    fused = lenet_ext.fuse(copy.deepcopy(exact).float(), images(example, 2, torch.float32))
    x = images(example, 9, torch.bfloat16)
    expected = outputs_and_gradients(exact, x.double())
    with torch.autocast("cpu", torch.bfloat16):
        actual = outputs_and_gradients(fused, x.float())
    count = len(actual) - len(list(fused.parameters()))
    assert {tensor.dtype for tensor in actual[:count]} == {torch.bfloat16}
    assert {tensor.dtype for tensor in actual[count:]} == {torch.float32}
    assert_near(actual, expected, 0.03)
    buffers = [buffer.double() for buffer in fused.buffers()]
    torch.testing.assert_close(buffers, [b.double() for b in exact.buffers()], rtol=0.02, atol=0.02)


def test_running_statistics_are_not_rounded_by_autocast() -> None:
    """Neither by the engine nor layer by layer: those of a channel that is zero shrink by a tenth."""
    norm = nn.BatchNorm1d(3)
    fused, x = lenet_ext.fuse(nn.Sequential(norm), torch.zeros(2, 3)), torch.zeros(4, 3)
    for transformed in (False, True):
        with torch.no_grad():
            norm.running_mean.fill_(1 / 3)
            norm.running_var.fill_(1 / 3)
        expected = 0.9 * norm.running_mean
        parameters = {name: parameter.detach() for name, parameter in fused.named_parameters()}
        with torch.autocast("cpu", torch.bfloat16):
            if transformed:
                own = {**parameters, **{name: buffer.clone() for name, buffer in fused.named_buffers()}}

                def loss(weight: Tensor, own: dict[str, Tensor]) -> Tensor:
                    return functional_call(fused, {**own, "0.weight": weight}, (x,)).float().sum()

                grad(loss)(parameters["0.weight"], own)
                found = own["0.running_mean"]
            else:
                fused(x)
                found = norm.running_mean
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["conv_transpose1d", "u-net", "squared"])
def test_second_derivatives_under_autocast(name: str) -> None:
    example = NETWORKS[name]
    model = example.build().eval()
    fused, x = lenet_ext.fuse(model, images(example, 2, torch.float32)), images(example, 3, torch.float32)
    parameters = list(fused.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        total = sum(output.float().square().sum() for output in tree_leaves(fused(x)))
        first = torch.autograd.grad(total, parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
    assert {tensor.dtype for tensor in second} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in second)


@pytest.mark.parametrize("name", ["residual", "batch norm first, twice", "u-net", "pixel shuffle", "slices"])
def test_other_layouts(name: str) -> None:
    """Of images and weights: the same bits."""
    example = NETWORKS[name]
    model = example.build().double()
    x = images(example, 5)
    dense, strided = (lenet_ext.fuse(copy.deepcopy(model), images(example, 2)) for _ in range(2))
    strided.to(memory_format=torch.channels_last)
    expected = outputs_and_gradients(dense, x)
    layouts = [
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        x.repeat_interleave(2, 3)[..., ::2],
    ]
    for images_in_layout in layouts:
        actual = outputs_and_gradients(strided, images_in_layout)
        assert all(map(torch.equal, actual, expected))
