"""`lenet-ext check`: what it compares, and that it notices what is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import Program

import lenet_ext
from lenet_ext.check import DTYPES, Comparison, rounding_limit
from lenet_ext.training.network_check import _error


def test_check_passes(program: Program) -> None:
    result = program("check")
    assert result.code == 0, result.out
    for word in ("conv2d", "max_pool2d", "linear", "relu", "LeNet", "backward", "bfloat16"):
        assert word in result.out
    assert "112 of 112 comparisons agree" in result.out


def test_check_notices_a_mismatch(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU whose values are right and whose gradient is half a percent off."""

    class Skewed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, input: torch.Tensor) -> torch.Tensor:
            return input.relu()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 1.005

    monkeypatch.setattr("lenet_ext.functional.relu", Skewed.apply)
    result = program("check")
    assert result.code == 1
    assert "relu backward torch.float32: error" in result.out
    assert "relu forward" not in result.out


def test_check_reports_a_layer_that_fails(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr("lenet_ext.functional.linear", broken)
    result = program("check")
    assert result.code == 1
    assert "linear 84 to 10 forward torch.float32: no kernel for this" in result.out


def test_limits_of_check_are_a_few_rounding_units() -> None:
    """Wide enough for sums of 5,000 terms, and far below any real mistake."""
    limits = {dtype: rounding_limit(dtype, 5000) for dtype in DTYPES}
    assert limits[torch.float64] < 2e-14
    assert limits[torch.float32] < 1e-5
    assert limits[torch.float16] < 0.0025
    assert limits[torch.bfloat16] < 0.02


def test_nan_is_a_mismatch() -> None:
    comparison = Comparison("relu", "forward", torch.float32, float("nan"), 0.0, limit=1e-6)
    assert not comparison.passed
    assert replace(comparison, error=1e-7).passed


NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.layers(x).mean((2, 3)))

class Recurrent(Net):
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, 3)
        self.rnn, self.out = nn.GRU(3, 5), nn.Linear(5, num_classes)

    def forward(self, x):
        return self.out(self.rnn(super().forward(x)[None])[0][0])

class Frozen(Net):  # and a layer that is not used
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes)
        self.layers.requires_grad_(False)
        self.unused = nn.Linear(2, 2)

class Selu(Net):
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes)
        self.layers[3] = nn.AlphaDropout(0.2)

class Own(Net):
    def train(self, mode=True):
        super().train(mode)
        self.layers[1].eval()
        return self

class Random(Net):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)
"""


FUSED, LAYERS = "in the fused engine", "layer by layer ("
HOW = {"Net": FUSED, "Recurrent": LAYERS, "Frozen": FUSED, "Selu": LAYERS, "Own": FUSED}


@pytest.mark.parametrize(("name", "how"), HOW.items())
def test_a_network_of_ones_own(
    program: Program, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setattr("lenet_ext.training.network_check.SECONDS", 0)
    Path("net.py").write_text(NETWORK)
    options = ("--in-channels", 1, "--num-classes", 4, "--image-size", 9)
    result = program("check", "--model", f"net.py:{name}", *options)
    assert result.code == 0, result
    assert result.out.startswith(f"net.py:{name} on images of 1x9x9, {how}")
    assert "after 4 steps of SGD" in result.out
    assert "training step, 64 images" in result.out
    assert result.out.endswith("5 of 5 comparisons agree with native torch\n")


def test_a_wrong_network_is_noticed(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose step is with another rate than torch's."""
    monkeypatch.setattr("lenet_ext.training.network_check.SECONDS", 0)
    monkeypatch.setattr(
        "lenet_ext.training.network_check.TrainStep", lambda fused, **_: lenet_ext.TrainStep(fused, lr=0.02)
    )
    Path("net.py").write_text(NETWORK)
    result = program("check", "--model", "net.py:Net")
    assert result.code == 1
    assert "4 of 5 comparisons agree" in result.out


def test_options_of_a_network_need_one(program: Program) -> None:
    assert (
        program.error("check", "--image-size", 16) == "--image-size 16: wanted --model FILE.py:Name with it"
    )


def test_random_networks_are_compared_in_eval_mode(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenet_ext.training.network_check.SECONDS", 0)
    Path("net.py").write_text(NETWORK)
    result = program("check", "--model", "net.py:Random")
    assert result.code == 0, result
    assert result.out.count("random: not compared") == 3
    assert result.out.endswith("2 of 2 comparisons agree with native torch\n")


def test_errors_of_networks() -> None:
    one, nan, infinite = torch.ones(2), torch.tensor([1.0, float("nan")]), torch.tensor([1.0, -torch.inf])
    assert _error([one, None, torch.empty(0)], [one, None, torch.empty(0)]) == 0
    assert math.isnan(_error([nan, one], [one, one]))
    assert _error([infinite, one], [infinite, one * 2]) == 0.5
    assert _error([one * 100, one * 2e-9], [one * 100, one * 1e-9]) == pytest.approx(1e-5)
    assert _error([one * 0], [one * 1e-12]) == 1
