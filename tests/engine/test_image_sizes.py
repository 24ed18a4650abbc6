"""Images of other sizes than the example's: taken where these make no difference, else refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_helpers import Forward
from chains import assert_near
from torch import Tensor, nn

import lenet_ext

SIZES = [(12, 12), (12, 20), (9, 30), (31, 31), (6, 6), (33, 12), (50, 50)]


def convolution(*_: Any) -> nn.Module:
    return nn.Conv2d(1, 3, 3)


FREE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "convolution": lambda net, x: net.conv(x),
    "pools": lambda net, x: F.max_pool2d(F.relu(net.conv(x)), 2),
    "strides": lambda net, x: F.max_pool2d(
        F.conv2d(x, net.conv.weight, stride=2, padding=1), 3, 1, 1, 1, True
    ),
    "no layer with parameters": lambda net, x: F.relu(x),
    "sizes that are looked at": lambda net, x: net.conv(x) if x.shape[-1] > 3 else F.relu(x),
}


@pytest.mark.parametrize("case", FREE)
def test_sizes_that_make_no_difference(case: str) -> None:
    model = Forward(FREE[case], conv=nn.Conv2d(1, 3, 3))
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 12, 12))
    for size in SIZES:
        for batch in (1, 3):
            images = torch.randn(batch, 1, *size)
            assert_near(fused(images), model(images), 1e-5)


DEPENDENT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "pool over the whole": lambda net, x: F.max_pool2d(net.conv(x), (x.size(2) - 2, x.size(3) - 2)),
    "large images": lambda net, x: net.conv(x) if x.shape[-1] <= 30 else F.relu(net.conv(x)),
    "tall images": lambda net, x: net.conv(x) if x.shape[2] <= x.shape[3] else F.relu(net.conv(x)),
    "even images": lambda net, x: net.conv(x) if x.shape[2] % 2 == 0 else F.relu(net.conv(x)),
    "one size": lambda net, x: net.conv(x) if tuple(x.shape[2:]) == (12, 12) else F.relu(net.conv(x)),
    "padding by the size": lambda net, x: F.conv2d(x, net.conv.weight, padding=x.shape[3] // 12),
    "stride by the size": lambda net, x: F.max_pool2d(x, 2, max(1, x.shape[2] // 6)),
    "branch on the batch too": lambda net, x: net.conv(x) if x.shape[2] * 10 < 200 else F.relu(net.conv(x)),
}


@pytest.mark.parametrize("case", DEPENDENT)
def test_sizes_that_decide_what_is_computed(case: str) -> None:
    """Right for those that are taken, and the others are refused."""
    model = Forward(DEPENDENT[case], conv=nn.Conv2d(1, 3, 3))
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 12, 12))
    assert_near(fused(images := torch.randn(2, 1, 12, 12)), model(images), 1e-5)
    refused = []
    for size in SIZES:
        images = torch.randn(2, 1, *size)
        try:
            assert_near(fused(images), model(images), 1e-5)
        except RuntimeError as error:
            refused.append(str(error))
    assert refused
    assert all("may compute something else" in error for error in refused)


def test_a_linear_layer_fixes_the_number_of_features() -> None:
    """Two shapes may have as many, and the model takes both."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 48, 3))
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 6, 8))
    for size in ((6, 8), (8, 6), (4, 12)):
        images = torch.randn(3, 1, *size)
        assert_near(fused(images), model(images), 1e-5)
    for size in ((6, 9), (7, 7), (1, 1)):
        with pytest.raises(RuntimeError, match=r"was fused for \(N, 1, 6, 8\)"):
            fused(torch.randn(3, 1, *size))


def test_a_model_that_checks_its_images_itself() -> None:
    fused = lenet_ext.fuse(lenet_ext.LeNet(), torch.randn(1, 3, 32, 32))
    with pytest.raises(
        RuntimeError, match=r"was fused for \(N, 3, 32, 32\), and may .* for \(2, 3, 32, 36\)"
    ):
        fused(torch.randn(2, 3, 32, 36))


def test_refused_images_do_not_become_known() -> None:
    model = Forward(DEPENDENT["one size"], conv=nn.Conv2d(1, 3, 3))
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 12, 12))
    step = lenet_ext.TrainStep(fused, lr=0.1, loss="mse")
    good, bad = torch.randn(2, 1, 12, 12), torch.randn(2, 1, 14, 12)
    for images in (bad, bad, good, bad):
        for call in (lambda x: fused(x), lambda x: step(x, torch.zeros(2, 3, x.shape[2] - 2, 10))):
            if images is good:
                call(images)
                continue
            with pytest.raises(RuntimeError, match="may compute something else"):
                call(images)


def test_compiled() -> None:
    torch._dynamo.reset()
    model = Forward(FREE["pools"], conv=nn.Conv2d(1, 3, 3))
    fused = lenet_ext.fuse(model, torch.randn(2, 1, 12, 12))
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    for size in ((12, 12), (12, 20)):
        images = torch.randn(2, 1, *size)
        assert_near(compiled(images), model(images), 1e-5)
